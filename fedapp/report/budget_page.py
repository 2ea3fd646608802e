"""The budget report's page. The template lives in Python because a Flower bundle carries no HTML
files."""

BUDGET_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Privacy budget · {{ name }}</title>
<style>
:root { --ink:#0f172a; --soft:#475569; --line:#e2e8f0; --paper:#fff; --wash:#f8fafc; --good:#0f766e; --bad:#b91c1c; }
* { box-sizing:border-box; }
body { margin:0; font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; color:var(--ink); background:var(--wash); }
main { max-width:1080px; margin:0 auto; padding:32px 24px 80px; }
h1 { font-size:28px; margin:0 0 4px; letter-spacing:-.01em; } h2 { font-size:18px; margin:38px 0 8px; }
.note { color:var(--soft); max-width:82ch; margin:6px 0 12px; }
.claim { background:var(--paper); border:1px solid var(--line); border-left:5px solid var(--good); border-radius:12px; padding:18px 22px; font-size:17px; margin:18px 0; }
.claim.none { border-left-color:#d97706; }
.card { background:var(--paper); border:1px solid var(--line); border-radius:12px; padding:16px 20px; overflow-x:auto; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(165px,1fr)); gap:12px; margin:14px 0; }
.tile { background:var(--paper); border:1px solid var(--line); border-radius:12px; padding:14px 16px; }
.tile b { display:block; font-size:25px; font-variant-numeric:tabular-nums; line-height:1.2; } .tile span { color:var(--soft); font-size:13px; }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; }
th,td { padding:7px 10px; text-align:left; border-bottom:1px solid var(--line); vertical-align:top; }
th { color:var(--soft); font-size:13px; font-weight:600; } tr:last-child td { border-bottom:0; } td.n, th.n { text-align:right; white-space:nowrap; }
.bar { height:12px; background:#e2e8f0; border-radius:6px; overflow:hidden; margin:8px 0 4px; } .bar i { display:block; height:100%; background:var(--good); } .bar.full i { background:var(--bad); }
.two { display:grid; grid-template-columns:1fr 1fr; gap:14px; } @media (max-width:800px) { .two { grid-template-columns:1fr; } }
svg { width:100%; height:auto; } code { font-size:13px; overflow-wrap:anywhere; }
.tag { border-radius:6px; padding:1px 8px; font-size:13px; background:#fef3c7; color:#92400e; } .tag.PASS { background:#ccfbf1; color:#115e59; } .tag.FAIL { background:#fee2e2; color:#991b1b; }
@media (prefers-color-scheme: dark) {
:root { --ink:#e2e8f0; --soft:#94a3b8; --line:#334155; --paper:#0f172a; --wash:#020617; --good:#2dd4bf; --bad:#f87171; }
section.card svg, figure svg { background:#ffffff; border-radius:8px; } .tag { background:#78350f; color:#fef3c7; }
}
@media (max-width: 760px) { main { padding:20px 12px 60px; } th, td { white-space:normal; padding:4px 6px; } .grid { width:auto; overflow-x:auto; max-width:100%; } }
@media print { body { background:#fff; } main { max-width:none; padding:0; } section.card { overflow:visible; border:0; padding:6px 0; } tr, figure, li, .curves svg { break-inside:avoid; } table { font-size:10.5px; } th, td { white-space:normal; padding:2px 4px; } .grid { width:auto; flex-wrap:wrap; } video { display:none; } details { display:none; } }
</style>
</head>
<body><main>
<h1>Privacy budget</h1>
<p class="note">{{ name }} · {{ r.provenance.population or "a population of its own" }} · {{ r.provenance.written }}</p>
<div class="claim {{ '' if r.accounting.epsilon is not none else 'none' }}">{{ r.claim }}</div>

{% if r.budget %}
<div class="tiles">
<div class="tile"><b>{{ number(r.accounting.epsilon) }}</b><span>ε spent, cohorts known (δ = {{ r.accounting.delta }})</span></div>
<div class="tile"><b>{{ number(r.budget.epsilon_max) }}</b><span>ε the population may spend</span></div>
<div class="tile"><b>{{ r.budget.rounds_left }}</b><span>rounds left at these settings</span></div>
<div class="tile"><b>{{ r.accounting.charged }}</b><span>rounds charged, {{ r.accounting.released }} released, {{ r.accounting.aborted }} aborted</span></div>
<div class="tile"><b>{{ number(r.utility.noise_to_signal) }}</b><span>noise over largest signal, each round</span></div>
</div>
<div class="bar {{ 'full' if r.budget.exhausted }}"><i style="width:{{ [100, 100 * r.accounting.epsilon / r.budget.epsilon_max]|min|round(1) }}%"></i></div>
<p class="note">{% if r.budget.exhausted %}The budget stopped a run: the next round would have exceeded it.{% else %}{{ number(r.budget.remaining) }} of ε is left.{% endif %}
{% if r.budget.noise_multiplier_to_finish %}{{ r.budget.rounds_missing }} planned rounds are missing; noise multiplier {{ number(r.budget.noise_multiplier_to_finish) }} would fit them in.{% endif %}</p>
{% endif %}

<h2>Against whom</h2>
<div class="card"><table><tr><th>who</th><th>protection</th></tr>
{% for row in r.against %}<tr><td>{{ row.who }}</td><td>{{ row.protection }}</td></tr>{% endfor %}</table></div>

{% if r.accounting.epsilon is not none %}
<h2>Accounting</h2>
<div class="two">
<div class="card"><table><tr><th>ε at δ = {{ r.accounting.delta }}</th><th class="n">value</th></tr>
<tr><td><b>headline</b>: {{ r.accounting.epsilon_is }}</td><td class="n"><b>{{ number(r.accounting.epsilon) }}</b></td></tr>
<tr><td>the same if a client's data are replaced, not left out</td><td class="n">{{ number(r.accounting.epsilon_replace_one) }}</td></tr>
<tr><td>amplified: {{ r.accounting.amplified.assumption }}</td><td class="n">{{ number(r.accounting.amplified.epsilon) }}</td></tr>
<tr><td>all charged rounds, Opacus PRV (upper bound)</td><td class="n">{{ number(r.accounting.all_rounds.prv_upper) }}</td></tr>
<tr><td>all charged rounds, Opacus RDP (order {{ number(r.accounting.all_rounds.rdp_order) }})</td><td class="n">{{ number(r.accounting.all_rounds.rdp) }}</td></tr>
<tr><td>all charged rounds, Google PLD</td><td class="n">{{ number(r.accounting.all_rounds.pld) }}</td></tr>
<tr><td>central-limit estimate (may lie below the truth; nothing is decided by it)</td><td class="n">{{ number(r.accounting.all_rounds.gdp_informational) }}</td></tr>
</table><p class="note">The bounds differ by {{ number(r.accounting.disagreement) }}: {{ "within" if r.accounting.agree else "beyond" }} what their methods explain.</p></div>
<div class="card">{{ curve|safe }}</div>
</div>
{% if r.meaning %}<p class="note">μ = {{ number(r.meaning.mu) }}: a test that decides whether a client took part, wrong about
{% for rate, power in r.meaning.max_true_positive_rate.items() %}{{ "%.1f"|format(100 * rate|float) }} % of outsiders, finds at most {{ "%.1f"|format(100 * power) }} % of members{{ "; " if not loop.last else "." }}{% endfor %}{{ " " }}Its advantage is at most {{ number(r.meaning.max_advantage) }}.</p>{% endif %}
{% endif %}

<h2>Who took part</h2>
<div class="two">
<div class="card"><table>
<tr><td>rule</td><td>{{ r.sampling.rule }}: {{ r.sampling.statement }}</td></tr>
<tr><td>population, per round</td><td>{{ r.sampling.population }}, {{ r.sampling.per_round }}</td></tr>
<tr><td>cohort secret from the server</td><td>{{ "yes" if r.sampling.cohort_secret else "no" }}</td></tr>
<tr><td>participations, least / median / most</td><td>{{ r.sampling.participations.min }} / {{ r.sampling.participations.median }} / {{ r.sampling.participations.max }}</td></tr>
<tr><td>cohort, expected / realised (least to most)</td><td>{{ r.sampling.cohort.expected }} / {{ number(r.sampling.cohort.mean) }} ({{ r.sampling.cohort.min }} to {{ r.sampling.cohort.max }})</td></tr>
</table></div>
<div class="card">{{ histogram|safe }}</div>
</div>

<h2>Mechanism</h2>
<div class="card"><table>{% for key, value in r.mechanism.items() %}<tr><td>{{ key|replace("_", " ") }}</td><td>{{ plain(value) }}</td></tr>{% endfor %}</table></div>

<h2>Not covered</h2>
<p class="note">Fields that leave a node outside the protected sum (from the wire schema by code), and what no release hides.</p>
<div class="card"><table>{% for row in r.not_covered %}<tr><td><code>{{ row.what }}</code></td><td>{{ row.why }}</td></tr>{% endfor %}</table></div>

<h2>Audit <span class="tag {{ r.audit.verdict }}">{{ r.audit.verdict }}</span></h2>
<div class="card">{% if r.audit.rows %}<table><tr><th>test</th><th class="n">lower bound (95 %)</th><th class="n">estimate</th><th class="n">claimed ε</th><th>verdict</th></tr>
{% for row in r.audit.rows %}<tr><td>{{ row.test }}</td><td class="n">{{ number(row.lower_bound) }}</td><td class="n">{{ number(row.estimate) }}</td><td class="n">{{ number(row.claimed) }}</td><td>{{ row.verdict }}</td></tr>{% endfor %}</table>
<table><tr><th>norm of</th><th class="n">sums</th><th class="n">shortest over its noise</th><th class="n">fails below</th><th>verdict</th></tr>
{% for row in r.audit.noise %}<tr><td>{{ row.test }}</td><td class="n">{{ row.sums }}</td><td class="n">{{ number(row.ratio) }}</td><td class="n">{{ number(row.least) }}</td><td>{{ row.verdict }}</td></tr>{% endfor %}</table>
{% else %}<p class="note">Not audited yet: <code>fedapp audit RUN</code> measures ε with canary clients at this run's settings.</p>{% endif %}
{% if r.audit.attacks %}<table><tr><th>attack</th><th>on</th><th>metric</th><th class="n">value</th><th class="n">without information</th><th class="n">n</th></tr>
{% for row in r.audit.attacks %}<tr><td>{{ row.attack }}</td><td>{{ row.release }}</td><td>{{ row.metric }}</td><td class="n">{{ number(row.value) }}</td><td class="n">{{ number(row.floor) }}</td><td class="n">{{ row.n }}</td></tr>{% endfor %}</table>{% endif %}</div>

<h2>Checklist (NIST SP 800-226)</h2>
<div class="card"><table>{% for row in r.checklist %}<tr><td>{{ row.question }}</td><td>{{ row.answer }}</td></tr>{% endfor %}</table></div>

<h2>Provenance</h2>
<div class="card"><table>{% for key, value in r.provenance.items() %}<tr><td>{{ key|replace("_", " ") }}</td><td><code>{{ plain(value) }}</code></td></tr>{% endfor %}</table></div>
</main></body></html>
"""
