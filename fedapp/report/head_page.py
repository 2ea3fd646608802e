"""The report of talking heads: people to look at, scores beside their controls, what adapters cost
and give away."""

HEAD_PAGE = """{% extends "page" %}
{% block lead %}{{ experiment.clients.total }} people, each with a few private clips, adapt one frozen talking-head backbone together
(a shared low-rank adapter, {{ experiment.talking_head.lora }} of rank {{ experiment.talking_head.rank }}, travels; a personal one stays){% endblock %}
{% block numbers %}
<h2>People nobody trained on</h2>
<p class="note">Left to right in each video: the truth, the shared model at once, and after {{ last }} steps on the person's own clips.
Every person was given one still picture from another clip, and the speech.</p>
<section class="card">
<div class="grid" style="grid-template-columns:repeat({{ order|length }},max-content)">
{% for m in order %}<div class="head" style="color:{{ colours[m] }}">{{ titles[m] }}{% if m == "local" %} (no federation){% endif %}</div>{% endfor %}
{% for person in people %}{% for m in order %}<figure class="film">
{% if person.videos[m] and person.videos[m][0] == "mp4" %}<video src="{{ person.videos[m][1] }}" controls loop muted autoplay playsinline></video>
{% elif person.videos[m] %}<img src="{{ person.videos[m][1] }}" alt="truth, before, after">{% endif %}
<figcaption>person {{ person.number }}: truth · at once · personalised</figcaption></figure>{% endfor %}{% endfor %}
</div>
</section>

<h2>The numbers</h2>
<section class="card">
<table>
<tr><th>at once, no adaptation</th><th>mouth correlation ↑</th><th>with wrong speech → 0</th><th>mouth error ↓</th><th>still reference</th><th>PSNR ↑</th><th>still reference</th><th>codec's limit</th><th>|jitter − true| ↓</th><th>identity ↑</th><th>top-1 ↑</th></tr>
{% for m in order %}{% set row = result.methods[m] %}
<tr><td><span class="dot" style="background:{{ colours[m] }}"></span>{{ titles[m] }}</td><td>{{ number(row.mouth_corr, 3) }}</td><td>{{ number(row.mouth_corr_shuffled, 3) }}</td><td>{{ number(row.mouth_error, 3) }}</td><td>{{ number(row.mouth_error_static, 3) }}</td>
<td>{{ number(row.psnr["0"] if row.psnr) }}</td><td>{{ number(row.psnr_static) }}</td><td>{{ number(row.psnr_codec) }}</td><td>{{ number(row.jitter_error, 4) }}</td><td>{{ number(row.identity_similarity, 3) }}</td><td>{{ number(row.identity_top1) }}</td></tr>
{% endfor %}
</table>
<p class="note">The mouth is judged by how dark its box is, frame by frame, in the generated and in the true video; errors are in units from closed (0)
to wide open (1) where the true opening is known. Wrong speech: the same person driven with other people's sound; a model that ignores sound would score the
same as with the right one. Identity is the cosine of coarse colour layouts, no face network, and saturates: the reference itself would be found.</p>
<table>
<tr><th>after k steps on one's own clips</th>{% for k in steps %}<th>mouth error@{{ k }} ↓</th>{% endfor %}{% for k in steps %}<th>reserved@{{ k }} ↓</th>{% endfor %}{% for k in steps %}<th>PSNR@{{ k }} ↑</th>{% endfor %}</tr>
{% for m in order %}{% set row = result.methods[m] %}{% set own = row.personalised or {} %}
<tr><td><span class="dot" style="background:{{ colours[m] }}"></span>{{ titles[m] }}</td>
{% for k in steps %}<td>{{ number((own.mouth_error or {})[k|string], 3) }}</td>{% endfor %}
{% for k in steps %}<td>{{ number((own.mouth_error_reserved or {})[k|string], 3) }}</td>{% endfor %}
{% for k in steps %}<td>{{ number((row.psnr or {})[k|string]) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<p class="note">Reserved: people who open their mouth 40 % as far, which no reference picture shows; a mouth that stays shut scores
{{ number(result.methods[order[0]].mouth_error_reserved_static, 3) }} on them. Only the personal adapter moves here.</p>
<table>
<tr><th>needs somebody's network</th>{% for m in order %}<th>{{ titles[m] }}</th>{% endfor %}</tr>
{% for label, values in judged.items() %}<tr><td>{{ label }}</td>{% for m in order %}<td>{{ number(values[m], 3) if values[m] is not none else "not computed" }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<p class="note">Set talking-head.judges to TorchScript files to have these computed. A Fréchet distance also needs more frames than the
network gives features; with fewer it would be meaningless.</p>
</section>
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
