"""The pages, one module a subject. They read through selectors and write through services."""
