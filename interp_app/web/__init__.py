"""The pages: views and forms over services and selectors; the markup is in templates/."""
