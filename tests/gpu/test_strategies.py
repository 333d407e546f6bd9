from tests.on_device.strategies import *  # noqa: F403
