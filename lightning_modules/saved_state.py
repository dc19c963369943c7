"""Whether a checkpoint holds all that is to be restored from it: what is missing is an error, not a default."""


def lacking(wanted: dict, found: object, name: str) -> list[str]:
    """Dotted names of the keys that are in `wanted`, at any depth, and not in `found`; `name` is that of both."""
    if not isinstance(found, dict):
        return [name]
    absent = [f"{name}.{key}" for key in wanted if key not in found]
    for key, value in wanted.items():
        if key in found and isinstance(value, dict):
            absent += lacking(value, found[key], f"{name}.{key}")
    return absent
