"""The twin of a token in memory, for tests."""

from hsm_drivers.software.driver import SoftwareDriver

__all__ = ["SoftwareDriver"]
