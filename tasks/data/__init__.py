"""Sources of data: made of numbers, bundled with an installed library, folders of the user's
own."""
