"""The page every report shares: style, findings, audit, costs, how to reproduce. It lives in Python
because a Flower bundle carries no HTML files; `field_page` and `head_page` fill its blocks."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ heading }} · fedapp</title>
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
th { font-weight:600; color:var(--soft); font-size:13px; white-space:normal; vertical-align:bottom; } th:first-child, td:first-child { text-align:left; }
tr:last-child td { border-bottom:0; }
.dot { display:inline-block; width:10px; height:10px; border-radius:50%; margin-right:8px; }
.tag { background:#fef3c7; color:#92400e; font-size:12px; border-radius:6px; padding:1px 7px; margin-left:8px; }
.grid:not(.first) { grid-template-columns:repeat(var(--columns),var(--width)); }
.grid { display:grid; gap:8px 10px; align-items:start; width:max-content; }
.grid .head { font-size:13px; font-weight:600; color:var(--soft); align-self:end; }
figure { margin:0; } figure img { width:100px; height:100px; object-fit:contain; image-rendering:pixelated; border-radius:6px; border:1px solid var(--line); display:block; background:#fff; }
.halves { display:flex; flex-wrap:wrap; align-items:flex-end; gap:14px 10px; } .grid.first { width:auto; max-width:100%; } .grid.first figure img { width:100%; height:auto; aspect-ratio:1; } .grid.first.wide figure img, .grid.first.wide figure video { max-height:var(--most); width:100%; height:auto; aspect-ratio:auto; object-fit:contain; object-position:left; border:0; background:none; } .grid.first .head { overflow-wrap:anywhere; hyphens:auto; }
.grid.sheets { width:auto; grid-template-columns:repeat(var(--columns),minmax(90px,var(--width))); }
.sheets figure img { width:auto; max-width:100%; height:72px; }
figure.film video, figure.film img { width:auto; height:150px; } figure.strip { display:inline-block; margin:4px 10px 4px 0; } figure.strip img { width:auto; height:210px; }
figcaption { font-size:11.5px; color:var(--soft); margin-top:2px; line-height:1.35; }
.curves { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr)); gap:14px; }
.curves svg { width:100%; height:auto; }
details summary { cursor:pointer; color:var(--soft); } pre { background:#0f172a; color:#e2e8f0; padding:14px 16px; border-radius:10px; overflow-x:auto; font-size:13px; }
.changed td { background:#f0fdfa; }
@media (prefers-color-scheme: dark) {
:root { --ink:#e2e8f0; --soft:#94a3b8; --line:#334155; --paper:#0f172a; --wash:#020617; }
section.card svg, figure svg { background:#ffffff; border-radius:8px; } .changed td { background:#134e4a; } .tag { background:#78350f; color:#fef3c7; }
pre { background:#1e293b; } .grid .head, figcaption { filter:brightness(1.45); }
}
@media (max-width: 760px) { main { padding:20px 12px 60px; } th, td { white-space:normal; padding:4px 3px; font-size:11px; } .tag { margin-left:2px; font-size:10px; } section.card { padding:12px 8px; } .grid { width:auto; overflow-x:auto; max-width:100%; gap:6px 5px; } .grid.first .head { font-size:10px; } }
@media screen { img.still { display:none; } }
@media print { body { background:#fff; } main { max-width:none; padding:0; } section.card { overflow:visible; border:0; padding:6px 0; } tr, figure, li, .curves svg { break-inside:avoid; } table { font-size:10.5px; } th, td { white-space:normal; padding:2px 4px; } .grid:not(.first), .grid.sheets { zoom:.6; width:auto; break-inside:avoid; grid-template-columns:repeat(var(--columns),minmax(0,var(--width))); } .grid:not(.first) figure img { max-width:100%; } table { break-inside:avoid; } h2, .note { break-after:avoid; } video, img.played { display:none; } details { display:none; } }
</style>
</head>
<body><main>
<h1>{{ heading }}</h1>
<p class="lead">{% block lead %}{% endblock %} over {{ result.rounds }} rounds{% if "rule" in axes %} with the rule
<b>{{ experiment.rule }}</b>{% endif %}{% if "release" in axes %}, release <b>{{ experiment.release }}</b>{% endif %}, seeds {{ experiment.seeds }}. Run {{ name }}.
{% if status.state != "finished" and status.state != "running" %}<span class="tag">{{ status.state }}: {{ status.reason }}</span>{% endif %}</p>

{% block strip %}
{% for line in strip if line.shots %}<section class="card"><p class="note" style="margin:0 0 8px">{{ line.title }}</p>
<div class="grid first wide" style="grid-template-columns:repeat(auto-fit,minmax(min({{ line.least }}px,100%),1fr))">
{% for shot in line.shots %}<figure style="--most:{{ line.most }}px">{{ shot.shown }}<figcaption{% if shot.colour %} style="color:{{ shot.colour }}"{% endif %}>{{ shot.caption }}</figcaption></figure>
{% endfor %}</div></section>
{% endfor %}
{% endblock %}
<ul class="findings">
{% for kind, text in findings[:3] %}<li class="{{ kind }}">{{ text }}</li>
{% endfor %}
</ul>

{% block numbers %}
<h2>The numbers</h2>
<section class="card">
{% for table in tables %}<table>
<tr><th>{{ table.title }}</th>{% for name in table.head[1:] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr><td>{% if dots[row[0]] %}<span class="dot" style="background:{{ dots[row[0]] }}"></span>{% endif %}{{ row[0] }}{% if table.flags[row[0]] %}<span class="tag">{{ table.flags[row[0]] }}</span>{% endif %}</td>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% else %}<p class="note">The task measured no numbers.</p>
{% endfor %}
</section>
{% endblock %}
{% block attacks %}{% endblock %}
{% if over_rounds %}
<h2>What all sums of the run give away together</h2>
<p class="note">{{ over_rounds.says }} Every attack is beside a control: the same where it is known to succeed (public draws, members that change, a clip that acts, norms that overflow), on the
same pictures. The floor is the mean picture or each picture's mean colour, whichever is nearer. “Not recovered by this attack” is no protection.</p>
<section class="card"><table><tr><th>attack</th><th>method</th><th>PSNR, dB</th><th>floor</th><th>AUC</th><th>right client</th><th>by chance</th><th>control</th><th>verdict</th></tr>
{% for row in over_rounds.rows %}<tr><td>{{ row.attack }}</td><td>{{ titles.get(row.method, row.method) }}</td><td>{{ number(row.psnr, 1) }}</td><td>{{ number(row.floor, 1) }}</td><td>{{ number(row.auc, 2) }}</td><td>{% if row.right_client is not none %}{{ row.right_client }} of {{ row.clients }}{% else %}–{% endif %}</td><td>{{ number(row.chance, 2) }}</td><td>{{ number((row.control or {}).get("psnr"), 1) }}</td><td style="text-align:left;white-space:normal">{{ row.verdict }}{% if row.note %}; {{ row.note }}{% endif %}</td></tr>
{% endfor %}</table>
{% for m, names in over_rounds.sheets.items() %}{% if round_sheets[m] %}<p class="note">{{ titles.get(m, m) }}, from top to bottom: {{ names|join(" · ") }}</p><img src="{{ round_sheets[m] }}" alt="pictures, and what attacks made of the sums" style="max-width:100%">{% endif %}{% endfor %}
</section>
{% endif %}
{% if audit %}
<h2>Audit: {{ audit.verdict }}</h2>
<section class="card"><table><tr><th>test</th><th>estimate</th><th>lower bound (95 %)</th><th>claimed ε</th><th>verdict</th></tr>
{% for row in audit.rows %}<tr><td>{{ row.test }}</td><td>{{ number(row.estimate) }}</td><td>{{ number(row.lower_bound) }}</td><td>{{ number(row.claimed) }}</td><td>{{ row.verdict }}</td></tr>
{% endfor %}</table>
<table><tr><th>norm of</th><th>sums</th><th>shortest over its noise</th><th>fails below</th><th>verdict</th></tr>
{% for row in audit.noise or [] %}<tr><td>{{ row.test }}</td><td>{{ row.sums }}</td><td>{{ number(row.ratio) }}</td><td>{{ number(row.least) }}</td><td>{{ row.verdict }}</td></tr>{% endfor %}</table>
{% if audit.about %}<p class="note">{{ audit.about }}</p>{% endif %}</section>
{% endif %}

{% block exhibits %}{% endblock %}
{% if findings[3:] %}<h2>Also found</h2>
<ul class="findings">
{% for kind, text in findings[3:] %}<li class="{{ kind }}">{{ text }}</li>
{% endfor %}
</ul>{% endif %}
<h2>Cost and failures</h2>
<section class="card">
<p>{{ "{:,}".format(result.bytes_up) }} bytes up and {{ "{:,}".format(result.bytes_down) }} bytes down in node messages;
{{ result.clients.ok }} client updates counted, {{ result.clients.failed }} left out{% if result.fallbacks %}; <b>{{ result.fallbacks }} times a chunk of clients failed together and was trained one by one</b> (code that depends on how clients are packed, or a client at fault){% endif %}{% if result.unseen %}; {{ result.unseen }} times uploads could not be looked at{% endif %}{% if result.rounds_skipped %}; <b>{{ result.rounds_skipped }} rounds were skipped: the model stayed</b>{% endif %}{% if result.groups_skipped %}; {{ result.groups_skipped }} sums of fixed groups were not made (a node was missing){% endif %}; {{ number(result.seconds, 0) }} s of rounds and evaluation.
{% if result.epsilon is not none %}Privacy budget: ε = {{ number(result.epsilon) }} at δ = {{ result.delta }} spent, cohorts known; the whole account is in <a href="privacy_report.html">privacy_report.html</a>.{% else %}Privacy budget ε: not computed (release {{ result.release }} adds no noise).{% endif %}</p>
{% if result.remarks %}<table><tr><th>node</th><th>what was noticed (a fault between two members may name both)</th></tr>
{% for node, what in result.remarks.items() %}<tr><td>{{ node }}</td><td style="text-align:left;white-space:normal">{{ what }}</td></tr>{% endfor %}</table>{% endif %}
{% if fallbacks %}<table><tr><th>round</th><th>method</th><th>what a chunk of clients failed with</th></tr>
{% for event in fallbacks %}{% for reason in event.fallbacks %}<tr><td>{{ event.round }}</td><td>{{ titles[event.method] }}</td><td style="text-align:left;white-space:normal">{{ reason }}</td></tr>
{% endfor %}{% endfor %}</table>{% endif %}
{% if failures %}<table><tr><th>round</th><th>method</th><th>client</th><th>reason</th></tr>
{% for event in failures %}{% for client, reason in event.failures.items() %}<tr><td>{{ event.round }}</td><td>{{ titles[event.method] }}</td><td>{{ client }}</td><td style="text-align:left;white-space:normal">{{ reason }}</td></tr>
{% endfor %}{% endfor %}</table>{% endif %}
</section>

<h2>How to reproduce</h2>
<pre>{{ reproduce }}</pre>
<p class="note">fedapp {{ about.fedapp }}, torch {{ about.torch }}, flwr {{ about.flwr }}, ray {{ about.ray }}, Python {{ about.python }} on {{ about.machine }}; started {{ about.created }}.</p>
<details><summary>Complete configuration (keys that differ from the default are marked)</summary>
<section class="card"><table><tr><th>key</th><th>value</th><th>default</th></tr>
{% for key, value in config.items() if key != "run-dir" %}<tr {% if value != defaults[key] %}class="changed"{% endif %}><td>{{ key }}</td><td>{{ value }}</td><td>{{ defaults[key] }}</td></tr>
{% endfor %}</table></section></details>
</main></body></html>
"""
