"""The report of fitted heads."""

GEOMETRY_PAGE = """{% extends "page" %}
{% block lead %}{{ experiment.clients.total }} people, one per client: {{ experiment.head.neutral_views }} rear views in colour and {{ experiment.head.sensitive_views }}
frontal views through {{ experiment.head.operator }}, on the device{% endblock %}
{% block exhibits %}
<h2>Heads</h2>
<p class="note">The truth from the front, the side and behind; the fit's colours; its surface as clay. Colours of faces that no colour was seen of are made up.
(Pictures of the truth are shown because this is a simulation.)</p>
{% for person in people %}<h3>client {{ person.name.split("-")[0]|int }}</h3>
{% for m in order %}{% if person.pictures[m] %}<figure><img src="{{ person.pictures[m] }}" alt="truth, colours, surface" style="max-width:100%"><figcaption style="color:{{ colours[m] }}">{{ titles[m] }}</figcaption></figure>{% endif %}{% endfor %}{% endfor %}
{% if not people %}<p class="note">No pictures: report.pictures is off, or the run ended before its last evaluation.</p>{% endif %}
{% if seen %}<h2>What the server had of client 0</h2>
{% for m in order %}{% if seen[m] %}<figure><img src="{{ seen[m] }}" alt="uploads" style="max-width:100%"><figcaption>{{ titles[m] }}</figcaption></figure>{% endif %}{% endfor %}{% endif %}
<h2>Turntable of client 0</h2><section class="card">
{% for m in order %}{% if films[m] %}<figure class="film" style="display:inline-block">{% if films[m][0] == "mp4" %}<video src="{{ films[m][1] }}" controls loop autoplay muted></video>{% else %}<img src="{{ films[m][1] }}" alt="a turn around the head">{% endif %}<figcaption>{{ titles[m] }}</figcaption></figure>{% endif %}{% endfor %}</section>
{% endblock %}
"""
