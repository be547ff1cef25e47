"""HTTP: routers, schemas, listeners."""
