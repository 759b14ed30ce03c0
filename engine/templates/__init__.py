"""Templates by name, locale and channel: compiled and rendered. Pure. Entry: `library.render_template`."""
