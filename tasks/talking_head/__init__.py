"""A talking head: given one picture of a person and speech, the frames of that person saying it.

``people`` (parametric), ``folders`` and ``manifest`` (LRS3, HDTF, VoxCeleb2, RAVDESS, your own) and
``windows`` give :class:`person.Person`; ``audio`` and ``codec`` turn clips into tokens and latents;
``backbone`` is the frozen denoiser, ``adapters`` the low-rank parts that train, ``diffusion`` the
losses and the sampler; ``task`` puts them behind :class:`tasks.types.Task`. ``metrics`` and
``judges`` say how good a result is.
"""
