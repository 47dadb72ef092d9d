"""Reports and files for people: HTML pages, CSV results, sign-off."""
