"""The HTTPS API: one module a noun, behind `build_app`. Handlers are thin and run in threads."""
