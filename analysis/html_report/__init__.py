"""`python -m analysis report`: finished cells as one HTML file that needs nothing but a browser.

`contents.py` gathers what is told, one file for each of its parts; `page.py` puts it into `template.html` with
`page.css` and `page.js`. Nothing is fetched by the page, and every text of models, data and studies is escaped.
"""

from analysis.html_report.contents import Contents, gather
from analysis.html_report.page import page

__all__ = ["Contents", "gather", "page"]
