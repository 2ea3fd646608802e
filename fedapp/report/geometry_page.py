"""The report of fitted heads."""

GEOMETRY_PAGE = """{% extends "page" %}
{% block lead %}{{ experiment.clients.total }} people, one per client: {{ experiment.head.neutral_views }} rear views in colour and {{ experiment.head.sensitive_views }}
frontal views through {{ experiment.head.operator }}, on the device{% endblock %}
{% block attacks %}
{% if frontier %}
<h2>Whom the uploads name</h2>
<p class="note">A matcher and an inverter trained on strangers under each operator, tried on people they never saw (chance {{ number(chance, 3) }}). Best: all of a person's
pictures, or one, of the same day or another, or the fitted geometry. Rear views leave in colour whatever the operator does. A failed attack means: not recognised by this matcher.</p>
<section class="card"><table><tr><th>what leaves</th><th>recognised at rank 1</th><th>95 %</th><th>by</th><th>from one picture</th><th>face, × stage 1</th></tr>
{% for row in frontier %}<tr><td style="text-align:left">{{ row.operator }}</td><td>{{ number(row.rank1, 2) }}</td><td>{{ number(row.low, 2) }} to {{ number(row.high, 2) }}</td><td style="text-align:left">{{ row.attack }}</td><td>{{ number(row.one_picture, 2) }}</td><td>{{ number(row.face_ratio, 2) }}</td></tr>
{% endfor %}</table></section>
<section class="card">{{ plot|safe }}<p class="note">To the left is useful, upwards leaks. Hollow: from one picture of another day. Grey: at most twice chance.</p></section>
{% if sheet %}<p class="note">A row per operator, in the order of the table; of each person the picture, what leaves of it, and what a trained network makes of that.</p>
<section class="card"><img src="{{ sheet }}" alt="pictures, uploads, inversions" style="max-width:100%"></section>{% endif %}
{% else %}<p class="note">Whom the uploads name: not measured in this run (`fedapp attack`).</p>
{% endif %}
{% endblock %}
{% block exhibits %}
{% if people[1:] or not people %}<h2>More heads</h2>
<p class="note">The truth from the front, the side and behind; the fit's colours; its surface as clay. Colours of faces that no colour was seen of are made up.
(Pictures of the truth are shown because this is a simulation.)</p>
{% for person in people[1:] %}<h3>client {{ person.name.split("-")[0]|int }}</h3>
{% for m in order %}{% if person.pictures[m] %}<figure><img src="{{ person.pictures[m] }}" alt="truth, colours, surface" style="max-width:100%"><figcaption style="color:{{ colours[m] }}">{{ titles[m] }}</figcaption></figure>{% endif %}{% endfor %}{% endfor %}
{% endif %}
{% if not people %}<p class="note">No pictures: report.pictures is off, or the run ended before its last evaluation.</p>{% endif %}
{% if seen %}<h2>What the server had of client 0</h2>
{% for m in order %}{% if seen[m] %}<figure><img src="{{ seen[m] }}" alt="uploads" style="max-width:100%"><figcaption>{{ titles[m] }}</figcaption></figure>{% endif %}{% endfor %}{% endif %}
{% if meshes %}<h2>Turn them</h2>
<p class="note">Drag, scroll, or use the arrow keys: all turn together. The files lie in the run's folder meshes/; `fedapp export` writes them as .ply, .obj and .glb.</p>
<section class="card" id="meshes">
{% for one in meshes %}<figure style="display:inline-block"><canvas width="300" height="300" tabindex="0" style="max-width:100%;cursor:grab;touch-action:none"></canvas><figcaption style="color:{{ colours[one.method] }}">client {{ one.client }}: {{ titles[one.method] }}</figcaption></figure>{% endfor %}
</section>
<script>{{ viewer|safe }}
const packed = {{ meshes|map(attribute="mesh")|list|tojson }};
show([...document.querySelectorAll("#meshes canvas")].map((canvas, i) => ({ canvas, mesh: meshOf(packed[i]) })));
</script>{% endif %}
{% endblock %}
"""
