"""The report of neural fields: what the server sees, what a new client gets."""

FIELD_PAGE = """{% extends "page" %}
{% block lead %}{{ experiment.clients.total }} clients, each holding {{ kind.held }}, train a shared neural field
({{ kind.field }} {{ experiment.field.depth }}×{{ experiment.field.width }}){% endblock %}
{% block strip %}
{{ super() }}
{% if first.rows %}
<section class="card">
<div class="halves">
{% for columns, rows in first.halves %}
<div class="grid first" style="flex:{{ columns|length }} 1 {{ columns|length * 84 }}px;grid-template-columns:repeat({{ columns|length }},minmax(0,104px))">
{% for title, colour in columns %}<div class="head"{% if colour %} style="color:{{ colour }}"{% endif %}>{{ title }}</div>{% endfor %}
{% for row in rows %}{% for title, image in row %}<figure>{% if image %}<img src="{{ image }}" alt="{{ title }}">{% endif %}</figure>{% endfor %}{% endfor %}
</div>
{% endfor %}
</div>
<p class="note">First: private {{ kind.many }}, and what a server makes of their clients' uploads{% if of_sums or not attacks %} by rendering them (inverting them can be stronger: fedapp attack){% endif %}{% if of_sums %}; of all uploads' sum, and of their sum with noise (coloured by the best affine fit to the private one, which no server has): {{ of_sums }}{% endif %}.
Then: {{ kind.many }} that no client holds, after {{ shown_steps[-1] }} steps on them.</p>
</section>
{% endif %}
{% endblock %}
{% block attacks %}
{% if attacks %}
<h2>Attacks on the updates</h2>
<p class="note">What the run's clients would send next, attacked as the server could under each release: rendering what it holds, inverting it
(the field's gradient is linear in the private values), telling members by their loss (“by chance”: what the untrained model tells apart), and testing the messages of a secure sum.
Pictures after the best affine intensity fit, which is an advantage no attacker has.</p>
<section class="card">
{% if attacked %}<div class="grid" style="--columns:{{ attacked[0].shots|length + 1 }};--width:118px">
<div class="head">private picture</div>{% for name, _ in attacked[0].shots %}<div class="head">{{ name }}</div>{% endfor %}
{% for row in attacked %}<figure><img src="{{ row.private }}" alt="private picture"><figcaption>{{ titles[row.method] }}</figcaption></figure>
{% for name, image in row.shots %}<figure>{% if image %}<img src="{{ image }}" alt="{{ name }}">{% endif %}</figure>{% endfor %}{% endfor %}
</div><p></p>{% endif %}
<table><tr><th>attack</th><th>method</th><th>on</th><th>metric</th><th>value</th><th>without information</th><th>by chance</th><th>n</th></tr>
{% for row in attacks %}<tr><td>{{ row.attack }}</td><td>{{ titles.get(row.method, row.method) }}</td><td>{{ row.release }}</td><td>{{ row.metric|replace("_", " ") }}</td><td>{{ number(row.value, 3) }}</td><td>{{ number(row.floor, 3) }}</td><td>{{ number(row.chance, 3) }}</td><td>{{ row.n }}</td></tr>
{% endfor %}</table>
</section>
{% endif %}
{% endblock %}
{% block exhibits %}
{% if experiment.release == "plain" %}
<h2>What the server sees</h2>
<p class="note">Left, each client's private {{ kind.one }} (shown here because this is a simulation; it never left the client in the
protocol). Right, what a curious server renders from that client's last upload, seed {{ experiment.seed_list[0] }}.</p>
<section class="card">
{% if clients %}
<div class="grid{{ " sheets" if kind.column }}" style="--columns:{{ (trained|length + 1) * (1 if kind.column else 2) }};--width:{{ kind.column or (122 if trained|length < 4 else 112) }}px">
{% for half in range(1 if kind.column else 2) %}<div class="head">private {{ kind.noun }}</div>{% for m in trained %}<div class="head" style="color:{{ colours[m] }}">{{ titles[m] }}</div>{% endfor %}{% endfor %}
{% for c in clients %}
<figure><img src="{{ c.private }}" alt="private picture of client {{ c.client }}"><figcaption>client {{ c.client }}</figcaption></figure>
{% for m in trained %}<figure>{% if c.rendered[m] %}<img src="{{ c.rendered[m] }}" alt="rendering of the upload of client {{ c.client }} under {{ titles[m] }}">{% endif %}
<figcaption>PSNR_p {{ number(c.numbers[m].psnr_p, 1) }} dB<br>affine {{ number(c.numbers[m].psnr_p_affine, 1) }} · r {{ number(c.numbers[m].correlation_p) }}</figcaption></figure>
{% endfor %}{% endfor %}
</div>
{% else %}<p class="note">No pictures: report.pictures is off, or the run ended before its first evaluation.</p>{% endif %}
</section>

{% endif %}
<h2>What a new client gets</h2>
<p class="note">{{ kind.many|capitalize }} no client holds, after test-time optimisation from each method's shared model, seed {{ experiment.seed_list[0] }}.</p>
<section class="card">
<div class="grid{{ " sheets" if kind.column }}" style="--columns:{{ order|length * shown_steps|length + 1 }};--width:{{ kind.column or 108 }}px">
<div class="head">truth</div>{% for m in order %}{% for k in shown_steps %}<div class="head" style="color:{{ colours[m] }}">{{ titles[m] }}, k = {{ k }}</div>{% endfor %}{% endfor %}
{% for row in new_clients %}
<figure>{% if row.truth %}<img src="{{ row.truth }}" alt="held-out picture {{ loop.index }}">{% endif %}</figure>
{% for m in order %}{% for k in shown_steps %}<figure>{% if row.adapted[m][k] %}<img src="{{ row.adapted[m][k] }}" alt="{{ titles[m] }} after {{ k }} steps">{% endif %}</figure>{% endfor %}{% endfor %}
{% endfor %}
</div>
</section>

{% if films[1:] %}
<h2>More in motion</h2>
<p class="note">Left to right in each film: the truth, the shared model as it is, and after {{ steps[-1] }} steps of test-time optimisation
{% if experiment.task == "nerf" %}on {{ experiment.data.support_views }} views (a turntable of an object no client holds){% else %}(clips no client holds){% endif %}.</p>
<section class="card">
{% for film in films[1:] %}{% for m in order %}{% if film.videos[m] %}<figure class="film" style="display:inline-block;margin:4px 14px 8px 0">
{{ moving(film.videos[m], "truth, before, after") }}
<figcaption style="color:{{ colours[m] }}">{{ titles[m] }}</figcaption></figure>{% endif %}{% endfor %}{% endfor %}
</section>

{% endif %}
<h2>Curves</h2>
<div class="curves">
{% if experiment.release == "plain" %}<section class="card">{{ curve_p|safe }}</section>{% endif %}
<section class="card">{{ curve_k|safe }}</section>
<section class="card">{{ curve_tto|safe }}</section>
{% if experiment.release == "plain" %}<section class="card">{{ frontier|safe }}</section>{% endif %}
</div>

{% endblock %}
"""
