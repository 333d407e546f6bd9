from tests.on_device.models import *  # noqa: F403
