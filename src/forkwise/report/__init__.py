"""Reports: results in words, tables and figures, and the sinks that show them.

Import from the modules; a terminal needs neither the page's templates nor the figures' library.
"""
