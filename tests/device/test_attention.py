from tests.on_device.attention import *  # noqa: F403
