"""The report of split radiance fields: views, costs, attacks."""

SPLIT_PAGE = """{% extends "page" %}
{% block lead %}{{ experiment.clients.total }} clients, a scene each ({{ experiment.split.train_views }} views to train on), train a radiance field whose
encoder lies elsewhere; {{ experiment.split.batches }} mini-batches of {{ experiment.split.rays }} rays per message{% endblock %}
{% block attacks %}
{% if grouped %}
<h2>What the traffic gives away</h2>
<p class="note">The first scene trained again, one transcript per design, every attacker on each. In brackets: the mean of the same attacker on
transcripts that hold nothing (n of them), and mean + 3 standard deviations. An attack succeeds where its edges exceed the latter.
Depth ranks follow from the cameras alone to a large part, which is why their floor is high.</p>
<section class="card"><table><tr><th>design</th><th>attack</th><th>edges</th><th>PSNR after affine fit</th><th>SSIM</th><th>depth ranks</th><th>n</th><th>succeeds</th><th>client's PSNR</th></tr>
{% for row in grouped %}<tr><td>{{ row.design }}</td><td style="text-align:left">{{ row.attack }}</td>
{% for name in ["edge", "psnr_affine", "ssim", "depth"] %}<td>{{ number(row[name].value) }} <span style="color:#64748b">({{ number(row[name].floor) }}, {{ number(row[name].chance) }})</span></td>{% endfor %}
<td>{{ row.edge.n }}</td>
<td>{% if row.succeeds %}<b style="color:#b45309">yes</b>{% else %}no{% endif %}</td><td>{{ number(row.psnr, 1) }}</td></tr>
{% endfor %}</table></section>
{% if one_holder %}<p class="note">{{ one_holder }}</p>{% endif %}
{% if signs %}<p class="note">Signs of table rows that a client kept secret but never changed, found from its gradients (half by chance): {% for cells, share in signs.items() %}level of {{ cells }}: {{ number(100 * share, 1) }} %{{ ", " if not loop.last }}{% endfor %}.</p>{% endif %}
<section class="card">{{ frontier|safe }}<p class="note">To the right is useful, upwards leaks. Filled: attackers that have what crosses; hollow: one picture has leaked to them as well; grey ticks: the end of their band on transcripts that hold nothing; triangles: nothing crosses. Controls are left out.</p></section>
{% if sheet %}<p class="note">A row per design and a null transcript of each kind at the end: the truth, the client's rendering, then every attacker's best, in the order of the table's rows of that design.</p>
<section class="card"><img src="{{ sheet }}" alt="renderings of attackers" style="image-rendering:pixelated;max-width:100%"></section>{% endif %}
{% else %}<p class="note">What the traffic gives away: not measured in this run (`fedapp attack`).</p>
{% endif %}
{% endblock %}
{% block exhibits %}
<h2>Held-out views</h2>
<p class="note">Each picture: the truth, the client's rendering, its depth (shown because this is a simulation; pictures never leave a device).</p>
<section class="card">
<div class="grid sheets" style="--columns:{{ order|length }};--width:max-content">
{% for m in order %}<div class="head" style="color:{{ colours[m] }}">{{ titles[m] }}<br><span style="font-weight:400">{{ about_designs[m] }}</span></div>{% endfor %}
{% for view in views %}{% for m in order %}<figure>{% if view.pictures[m] %}<img src="{{ view.pictures[m] }}" alt="truth, rendering, depth">{% endif %}<figcaption>scene {{ view.name }}</figcaption></figure>{% endfor %}{% endfor %}
</div>
{% if not views %}<p class="note">No pictures: report.pictures is off, or the run ended before its last evaluation.</p>{% endif %}
</section>
{% if film %}<h2>Around the first scene</h2><section class="card"><figure class="film">{{ moving(film, "a walk through the scene") }}<figcaption>{{ titles[order[0]] }}</figcaption></figure></section>{% endif %}
<h2>Curves</h2>
<div class="curves"><section class="card">{{ curve|safe }}</section></div>
{% endblock %}
"""
