"""The report of a task this package knows nothing about (a plug-in's): the numbers it measured, for
each method."""

PLAIN_PAGE = """{% extends "page" %}
{% block lead %}{{ experiment.clients.total }} clients train {% for m in trained %}{{ titles[m] }}{{ ", " if not loop.last }}{% endfor %} on the task <b>{{ experiment.task }}</b> together,{% endblock %}
{% block numbers %}
<h2>The numbers</h2>
<section class="card">
<table>
<tr><th>measured by the task</th>{% for name in measured %}<th>{{ name|replace("_", " ") }}</th>{% endfor %}</tr>
{% for m in order %}
<tr><td><span class="dot" style="background:{{ colours[m] }}"></span>{{ titles[m] }}</td>{% for name in measured %}<td>{{ number(result.methods[m][name], 4) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<p class="note">After the last round, means over seeds.{% if not measured %} The task measured no numbers.{% endif %}</p>
</section>
{% endblock %}
{% block attacks %}
{% if attacks %}
<h2>Attacks on the updates</h2>
<section class="card">
<table><tr><th>attack</th><th>method</th><th>on</th><th>metric</th><th>value</th><th>by chance</th><th>n</th></tr>
{% for row in attacks %}<tr><td>{{ row.attack }}</td><td>{{ titles.get(row.method, row.method) }}</td><td>{{ row.release }}</td><td>{{ row.metric|replace("_", " ") }}</td><td>{{ number(row.value, 3) }}</td><td>{{ number(row.chance, 3) }}</td><td>{{ row.n }}</td></tr>
{% endfor %}</table>
</section>
{% endif %}
{% endblock %}
"""
