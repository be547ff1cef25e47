"""The PKCS#11 driver; the only code that imports python-pkcs11."""
