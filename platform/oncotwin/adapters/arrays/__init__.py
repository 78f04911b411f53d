"""Arrays that others wrote: claim checks, header bounds, decoding under limits, and import of sections and slides."""
