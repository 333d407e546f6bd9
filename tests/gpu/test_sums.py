from tests.on_device.sums import *  # noqa: F403
