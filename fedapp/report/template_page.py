"""The report of a template of heads."""

from __future__ import annotations

from fedapp.report.plain_page import PLAIN_PAGE

TEMPLATE_PAGE = PLAIN_PAGE.replace(
    "{% block attacks %}",
    """{% block exhibits %}
<h2>A newcomer</h2>
<p class="note">Above the truth, in the middle the template (from the front, the side and behind), below the head after the newcomer's own steps.</p>
{% for m in order %}{% if shown[m] %}<figure style="display:inline-block"><img src="{{ shown[m] }}" alt="truth, template, adapted"><figcaption style="color:{{ colours[m] }}">{{ titles[m] }}</figcaption></figure>{% endif %}{% endfor %}
{% endblock %}
{% block attacks %}""",
)
