"""The report of a task this package knows nothing about (a plug-in's): the numbers it measured, for
each method."""

PLAIN_PAGE = """{% extends "page" %}
{% block lead %}{{ experiment.clients.total }} clients train {% for m in trained %}{{ titles[m] }}{{ ", " if not loop.last }}{% endfor %} on the task <b>{{ experiment.task }}</b> together,{% endblock %}
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
