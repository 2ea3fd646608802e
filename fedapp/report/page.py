"""The page's template. It lives in Python because a Flower bundle carries no HTML files."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }} · fedapp</title>
<style>
:root { --ink:#0f172a; --soft:#475569; --line:#e2e8f0; --paper:#ffffff; --wash:#f8fafc; }
* { box-sizing:border-box; }
body { margin:0; font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; color:var(--ink); background:var(--wash); }
main { max-width:1240px; margin:0 auto; padding:32px 24px 80px; }
h1 { font-size:28px; margin:0 0 4px; letter-spacing:-.01em; }
h2 { font-size:19px; margin:44px 0 6px; }
p.lead, .note { color:var(--soft); max-width:80ch; margin:4px 0 14px; }
section.card { background:var(--paper); border:1px solid var(--line); border-radius:12px; padding:18px 20px; margin-top:14px; overflow-x:auto; }
ul.findings { list-style:none; margin:18px 0 0; padding:0; display:grid; gap:8px; }
ul.findings li { background:var(--paper); border:1px solid var(--line); border-left:4px solid #94a3b8; border-radius:8px; padding:10px 14px; max-width:100ch; }
ul.findings li.good { border-left-color:#0f766e; } ul.findings li.warning { border-left-color:#d97706; }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; }
th, td { padding:6px 9px; text-align:right; border-bottom:1px solid var(--line); white-space:nowrap; }
th { font-weight:600; color:var(--soft); font-size:13px; } th:first-child, td:first-child { text-align:left; }
tr:last-child td { border-bottom:0; }
.dot { display:inline-block; width:10px; height:10px; border-radius:50%; margin-right:8px; }
.tag { background:#fef3c7; color:#92400e; font-size:12px; border-radius:6px; padding:1px 7px; margin-left:8px; }
.grid { display:grid; gap:8px 10px; align-items:start; width:max-content; }
.grid .head { font-size:13px; font-weight:600; color:var(--soft); align-self:end; }
figure { margin:0; } figure img { width:100px; height:100px; object-fit:contain; image-rendering:pixelated; border-radius:6px; border:1px solid var(--line); display:block; background:#fff; }
figcaption { font-size:11.5px; color:var(--soft); margin-top:2px; line-height:1.35; }
.curves { display:grid; grid-template-columns:repeat(auto-fit,minmax(480px,1fr)); gap:14px; }
.curves svg { width:100%; height:auto; }
details summary { cursor:pointer; color:var(--soft); } pre { background:#0f172a; color:#e2e8f0; padding:14px 16px; border-radius:10px; overflow-x:auto; font-size:13px; }
.changed td { background:#f0fdfa; }
</style>
</head>
<body><main>
<h1>{{ name }}</h1>
<p class="lead">{{ experiment.clients.total }} clients, each holding one private picture, train a shared neural field
(SIREN {{ experiment.field.depth }}×{{ experiment.field.width }}) over {{ result.rounds }} rounds with the rule
<b>{{ experiment.rule }}</b>, release <b>{{ experiment.release }}</b>, seeds {{ experiment.seeds }}.
{% if status.state != "finished" and status.state != "running" %}<span class="tag">{{ status.state }}: {{ status.reason }}</span>{% endif %}</p>

<ul class="findings">
{% for kind, text in findings %}<li class="{{ kind }}">{{ text }}</li>
{% endfor %}
</ul>

<h2>The numbers</h2>
<section class="card">
{% if experiment.release == "plain" %}<table>
<tr><th>what the server sees</th><th>PSNR_p mean ↓</th><th>worst client ↓</th><th>after affine fit ↓</th><th>correlation ↓</th><th>flat colour</th><th>outside [0, 1]</th></tr>
{% for m in trained %}{% set row = result.methods[m] %}
<tr><td><span class="dot" style="background:{{ colours[m] }}"></span>{{ titles[m] }}{% if row.diverged %}<span class="tag">diverged</span>{% endif %}</td>
<td>{{ number(row.psnr_p.mean if row.psnr_p) }}</td><td>{{ number(row.psnr_p.max if row.psnr_p) }}</td>
<td>{{ number(row.psnr_p_affine.mean if row.psnr_p_affine) }}</td><td>{{ number(row.correlation_p.mean if row.correlation_p) }}</td>
<td>{{ number(row.psnr_floor.mean if row.psnr_floor) }}</td><td>{{ number(row.range_excess.mean if row.range_excess) }}</td></tr>
{% endfor %}
</table>
<p class="note">PSNR_p compares the rendering of a client's upload with its private picture; the worst client is the one it shows
best. “Outside” is how far the rendering lies from the data range on average. Means over seeds and clients.</p>
{% endif %}
<table>
<tr><th>what a new client gets</th>{% for k in steps %}<th>PSNR@{{ k }} ↑</th>{% endfor %}{% for k in shown_steps %}<th>SSIM@{{ k }} ↑</th>{% endfor %}</tr>
{% for m in order %}{% set row = result.methods[m] %}
<tr><td><span class="dot" style="background:{{ colours[m] }}"></span>{{ titles[m] }}</td>
{% for k in steps %}<td>{{ number(row.psnr[k|string] if row.psnr) }}</td>{% endfor %}
{% for k in shown_steps %}<td>{{ number(row.ssim[k|string] if row.ssim, 3) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<p class="note">After k steps of test-time optimisation on {{ experiment.data.held_out }} pictures no client holds, at step size
{{ experiment.evaluation.rate }}, the same for all.</p>
<table>
<tr><th>step size tuned per method</th>{% for k in steps %}<th>PSNR@{{ k }} ↑</th>{% endfor %}<th>chosen at k = {{ steps[-1] }}</th></tr>
{% for m in order %}{% set row = result.methods[m] %}{% if row.psnr_tuned %}
<tr><td><span class="dot" style="background:{{ colours[m] }}"></span>{{ titles[m] }}</td>
{% for k in steps %}<td>{{ number(row.psnr_tuned[k|string]) }}</td>{% endfor %}
<td>{{ row.rates_tuned[steps[-1]|string]|join(", ") }}</td></tr>
{% endif %}{% endfor %}
</table>
<p class="note">Tuned by cross-fitting over {{ experiment.evaluation.rates }}: each picture is reported at the step size that was
best for the other pictures.</p>
</section>

{% if attacks %}
<h2>Attacks on the updates</h2>
<p class="note">What the run's clients would send next, attacked as the server could under each release: rendering what it holds, inverting it
(the field's gradient is linear in the private values), telling members by their loss, and testing the messages of a secure sum.
Pictures after the best affine intensity fit, which is an advantage no attacker has.</p>
<section class="card">
{% if attacked %}<div class="grid" style="grid-template-columns:repeat({{ attacked[0].shots|length + 1 }},118px)">
<div class="head">private picture</div>{% for name, _ in attacked[0].shots %}<div class="head">{{ name }}</div>{% endfor %}
{% for row in attacked %}<figure><img src="{{ row.private }}" alt="private picture"><figcaption>{{ titles[row.method] }}</figcaption></figure>
{% for name, image in row.shots %}<figure>{% if image %}<img src="{{ image }}" alt="{{ name }}">{% endif %}</figure>{% endfor %}{% endfor %}
</div><p></p>{% endif %}
<table><tr><th>attack</th><th>method</th><th>on</th><th>metric</th><th>value</th><th>without information</th><th>by chance</th><th>n</th></tr>
{% for row in attacks %}<tr><td>{{ row.attack }}</td><td>{{ titles.get(row.method, row.method) }}</td><td>{{ row.release }}</td><td>{{ row.metric|replace("_", " ") }}</td><td>{{ number(row.value, 3) }}</td><td>{{ number(row.floor, 3) }}</td><td>{{ number(row.chance, 3) }}</td><td>{{ row.n }}</td></tr>
{% endfor %}</table>
</section>
{% endif %}
{% if audit %}
<h2>Audit: {{ audit.verdict }}</h2>
<section class="card"><table><tr><th>test</th><th>estimate</th><th>lower bound (95 %)</th><th>claimed ε</th><th>verdict</th></tr>
{% for row in audit.rows %}<tr><td>{{ row.test }}</td><td>{{ number(row.estimate) }}</td><td>{{ number(row.lower_bound) }}</td><td>{{ number(row.claimed) }}</td><td>{{ row.verdict }}</td></tr>
{% endfor %}</table></section>
{% endif %}

{% if experiment.release == "plain" %}
<h2>What the server sees</h2>
<p class="note">Left, each client's private picture (shown here because this is a simulation; it never left the client in the
protocol). Right, what a curious server renders from that client's last upload, seed {{ experiment.seed_list[0] }}.</p>
<section class="card">
{% if clients %}
<div class="grid" style="grid-template-columns:repeat({{ 2 * trained|length + 2 }},{{ 122 if trained|length < 4 else 112 }}px)">
{% for half in range(2) %}<div class="head">private picture</div>{% for m in trained %}<div class="head" style="color:{{ colours[m] }}">{{ titles[m] }}</div>{% endfor %}{% endfor %}
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
<p class="note">Pictures no client holds, after test-time optimisation from each method's shared model, seed {{ experiment.seed_list[0] }}.</p>
<section class="card">
<div class="grid" style="grid-template-columns:repeat({{ order|length * shown_steps|length + 1 }},108px)">
<div class="head">truth</div>{% for m in order %}{% for k in shown_steps %}<div class="head" style="color:{{ colours[m] }}">{{ titles[m] }}, {{ k }} steps</div>{% endfor %}{% endfor %}
{% for row in new_clients %}
<figure>{% if row.truth %}<img src="{{ row.truth }}" alt="held-out picture {{ loop.index }}">{% endif %}</figure>
{% for m in order %}{% for k in shown_steps %}<figure>{% if row.adapted[m][k] %}<img src="{{ row.adapted[m][k] }}" alt="{{ titles[m] }} after {{ k }} steps">{% endif %}</figure>{% endfor %}{% endfor %}
{% endfor %}
</div>
</section>

<h2>Curves</h2>
<div class="curves">
{% if experiment.release == "plain" %}<section class="card">{{ curve_p|safe }}</section>{% endif %}
<section class="card">{{ curve_k|safe }}</section>
<section class="card">{{ curve_tto|safe }}</section>
{% if experiment.release == "plain" %}<section class="card">{{ frontier|safe }}</section>{% endif %}
</div>

<h2>Cost and failures</h2>
<section class="card">
<p>{{ "{:,}".format(result.bytes_up) }} bytes up and {{ "{:,}".format(result.bytes_down) }} bytes down in node messages;
{{ result.clients.ok }} client updates counted, {{ result.clients.failed }} left out; {{ number(result.seconds, 0) }} s of rounds and evaluation.
{% if result.epsilon is not none %}Privacy budget: ε = {{ number(result.epsilon) }} at δ = {{ result.delta }} spent, cohorts known; the whole account is in <a href="privacy_report.html">privacy_report.html</a>.{% else %}Privacy budget ε: not computed (release {{ result.release }} adds no noise).{% endif %}</p>
{% if failures %}<table><tr><th>round</th><th>method</th><th>client</th><th>reason</th></tr>
{% for event in failures %}{% for client, reason in event.failures.items() %}<tr><td>{{ event.round }}</td><td>{{ titles[event.method] }}</td><td>{{ client }}</td><td style="text-align:left;white-space:normal">{{ reason }}</td></tr>
{% endfor %}{% endfor %}</table>{% endif %}
</section>

<h2>How to reproduce</h2>
<pre>fedapp run {{ experiment.recipe }} --runtime {{ about.runtime or "ray" }}{% for key, value in config.items() if key not in ("run-dir", "resume", "recipe") and value != defaults[key] %} \\
  -o {{ key }}={{ value }}{% endfor %}</pre>
<p class="note">fedapp {{ about.fedapp }}, torch {{ about.torch }}, flwr {{ about.flwr }}, ray {{ about.ray }}, Python {{ about.python }} on {{ about.machine }}; started {{ about.created }}.</p>
<details><summary>Complete configuration (keys that differ from the default are marked)</summary>
<section class="card"><table><tr><th>key</th><th>value</th><th>default</th></tr>
{% for key, value in config.items() if key != "run-dir" %}<tr {% if value != defaults[key] %}class="changed"{% endif %}><td>{{ key }}</td><td>{{ value }}</td><td>{{ defaults[key] }}</td></tr>
{% endfor %}</table></section></details>
</main></body></html>
"""
