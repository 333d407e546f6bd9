from tests.on_device.kernels import *  # noqa: F403
