"""Settings of all tests."""

from hypothesis import settings

# a busy machine is slow, not wrong
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
