from tests.on_device.programs import *  # noqa: F403
