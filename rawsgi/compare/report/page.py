def render_page(c,d): return ""
