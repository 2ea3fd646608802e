"""The report of talking heads: people to look at, scores beside their controls, what adapters cost
and give away."""

HEAD_PAGE = """{% extends "page" %}
{% block lead %}{{ experiment.clients.total }} people, each with a few private clips, adapt one frozen talking-head backbone together
(a shared low-rank adapter, {{ experiment.talking_head.lora }} of rank {{ experiment.talking_head.rank }}, travels; a personal one stays){% endblock %}
{% block numbers %}
{{ super() }}
{% if not judges %}<p class="note">LPIPS, Fréchet distance, face similarity and sync confidence: not computed. Set talking-head.judges to TorchScript files to have them.</p>{% endif %}
{% endblock %}
{% block attacks %}
{% if attacks %}
<h2>What an adapter gives away</h2>
<p class="note">Linkage: the attacker holds what the server would, owns public clips of every candidate, and names the person whose clips
the adapter helps most. Membership: whether a person took part, from the same score. Updates were made again from the run's last model; parametric people may be more than took part.
Under a sum everybody's message is the same, so linkage is at chance by construction; membership is what a sum can still show.</p>
<section class="card"><table><tr><th>attack</th><th>on</th><th>metric</th><th>value</th><th>by chance</th><th>n</th></tr>
{% for row in attacks %}<tr><td>{{ row.attack }}</td><td>{{ row.release }}</td><td>{{ row.metric|replace("_", " ") }}</td><td>{{ number(row.value, 3) }}</td><td>{{ number(row.chance, 3) }}</td><td>{{ row.n }}</td></tr>
{% endfor %}</table></section>
{% endif %}
{% endblock %}
{% block exhibits %}
{% if people[2:] %}<h2>More people nobody trained on</h2>
<p class="note">Left to right in each video: the truth, the shared model at once, and after {{ last }} steps on the person's own clips.
Every person was given one still picture from another clip, and the speech.</p>
<section class="card">
<div class="grid" style="--columns:{{ order|length }};--width:max-content">
{% for m in order %}<div class="head" style="color:{{ colours[m] }}">{{ titles[m] }}{% if m == "local" %} (no federation){% endif %}</div>{% endfor %}
{% for person in people[2:] %}{% for m in order %}<figure class="film">
{% if person.videos[m] %}{{ moving(person.videos[m], "truth, before, after") }}{% endif %}
<figcaption>person {{ person.number }}: truth · at once · personalised</figcaption></figure>{% endfor %}{% endfor %}
</div>
</section>
{% endif %}
<h2>Frame by frame</h2>
<p class="note">Rows: truth, at once, personalised; the first picture of each row is the reference the person was known by.</p>
<section class="card">
{% for person in people %}{% for m in order if m != "local" %}{% if person.strips[m] %}<figure class="strip"><img src="{{ person.strips[m] }}" alt="person {{ person.number }}"></figure>{% endif %}{% endfor %}{% endfor %}
</section>
<h2>Curves</h2>
<div class="curves"><section class="card">{{ curve_personal|safe }}</section><section class="card">{{ curve_mouth|safe }}</section></div>
<h2>What travels</h2>
<section class="card"><p>{{ "{:,}".format(cost.shared) }} numbers ({{ "{:,}".format(cost.bytes) }} bytes in fp32) a client and round, {{ number(100 * cost.share, 1) }} % of the denoiser's
{{ "{:,}".format(cost.full) }} ({{ "{:,}".format(cost.full_bytes) }} bytes). Personal adapters stay on their devices.</p></section>
{% endblock %}
"""
