"""Where data come from: pictures bundled with an installed library, and folders of the user's
own."""
