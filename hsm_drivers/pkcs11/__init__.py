"""The PKCS#11 driver; imported by the signer process only (promise P6)."""

from hsm_drivers.pkcs11.driver import Pkcs11Driver

__all__ = ["Pkcs11Driver"]
