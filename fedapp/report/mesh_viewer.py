"""Meshes that a reader of the report turns with the mouse: drawn by the page itself, without a
network, a library or a graphics card.

``VIEWER`` is its script. ``paint(mesh, size, yaw, pitch, zoom)`` is a z-buffer in plain arrays and
needs no browser, so that a test can run it and look.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from fedapp.export_meshes import MESHES
from tasks.head.export import read_ply
from tasks.head.mesh import Mesh

MOST = 12  # meshes of a page: each weighs a few hundred kilobytes
SCALE = 32767  # vertices are 16-bit shares of the largest coordinate

VIEWER = """
function unpack(text, kind) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new kind(bytes.buffer);
}
function meshOf(packed) {
  const places = unpack(packed.places, Int16Array), corners = unpack(packed.corners, Uint32Array);
  const at = new Float32Array(places.length), normal = new Float32Array(places.length);
  for (let i = 0; i < at.length; i++) at[i] = places[i] / 32767;
  for (let f = 0; f < corners.length; f += 3) {
    const a = 3 * corners[f], b = 3 * corners[f + 1], c = 3 * corners[f + 2];
    const u = [at[b] - at[a], at[b + 1] - at[a + 1], at[b + 2] - at[a + 2]];
    const v = [at[c] - at[a], at[c + 1] - at[a + 1], at[c + 2] - at[a + 2]];
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) normal[corner + k] += n[k];
  }
  return { at, normal, corners };
}
function paint(mesh, size, yaw, pitch, zoom) {
  const { at, normal, corners } = mesh, count = at.length / 3;
  const picture = new Uint8ClampedArray(4 * size * size).fill(255);
  const depth = new Float32Array(size * size).fill(-1e9);
  const x = new Float32Array(count), y = new Float32Array(count), z = new Float32Array(count);
  const light = new Float32Array(count);
  const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
  for (let i = 0; i < count; i++) {
    const turn = (v) => {
      const one = cy * v[3 * i] + sy * v[3 * i + 2], two = cy * v[3 * i + 2] - sy * v[3 * i];
      return [one, cp * v[3 * i + 1] - sp * two, sp * v[3 * i + 1] + cp * two];
    };
    const p = turn(at), n = turn(normal), scale = 0.5 * size * zoom;
    x[i] = size / 2 + scale * p[0]; y[i] = size / 2 - scale * p[1]; z[i] = p[2];
    const length = Math.hypot(n[0], n[1], n[2]) || 1;
    light[i] = 0.25 + 0.75 * Math.max(0, (0.35 * n[0] + 0.45 * n[1] + 0.82 * n[2]) / length);
  }
  for (let f = 0; f < corners.length; f += 3) {
    const a = corners[f], b = corners[f + 1], c = corners[f + 2];
    const area = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a]);
    if (!area) continue;
    const left = Math.max(0, Math.ceil(Math.min(x[a], x[b], x[c]) - 0.5));
    const right = Math.min(size - 1, Math.floor(Math.max(x[a], x[b], x[c]) - 0.5));
    const top = Math.max(0, Math.ceil(Math.min(y[a], y[b], y[c]) - 0.5));
    const low = Math.min(size - 1, Math.floor(Math.max(y[a], y[b], y[c]) - 0.5));
    for (let row = top; row <= low; row++) for (let column = left; column <= right; column++) {
      const px = column + 0.5, py = row + 0.5;
      const u = ((x[b] - px) * (y[c] - py) - (x[c] - px) * (y[b] - py)) / area;
      const v = ((x[c] - px) * (y[a] - py) - (x[a] - px) * (y[c] - py)) / area;
      const w = 1 - u - v;
      if (u < 0 || v < 0 || w < 0) continue;
      const deep = u * z[a] + v * z[b] + w * z[c], pixel = row * size + column;
      if (deep <= depth[pixel]) continue;
      depth[pixel] = deep;
      const shade = u * light[a] + v * light[b] + w * light[c];
      picture[4 * pixel] = 226 * shade; picture[4 * pixel + 1] = 196 * shade;
      picture[4 * pixel + 2] = 172 * shade;
    }
  }
  return picture;
}
function show(boxes) {
  const view = { yaw: 0.5, pitch: 0.1, zoom: 1 }, size = 300;
  let waiting = false;
  const draw = () => {
    waiting = false;
    for (const box of boxes) {
      const pixels = paint(box.mesh, size, view.yaw, view.pitch, view.zoom);
      box.canvas.getContext("2d").putImageData(new ImageData(pixels, size, size), 0, 0);
    }
  };
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  for (const { canvas } of boxes) {
    canvas.addEventListener("pointerdown", (e) => canvas.setPointerCapture(e.pointerId));
    canvas.addEventListener("pointermove", (e) => {
      if (!e.buttons) return;
      view.yaw += e.movementX * 0.01; later();
      view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + e.movementY * 0.01));
    });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault(); view.zoom *= Math.exp(-e.deltaY * 0.001); later();
    }, { passive: false });
    canvas.addEventListener("keydown", (e) => {
      const turn = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1],
        ArrowDown: [0, 0.1] }[e.key];
      if (turn) { e.preventDefault(); view.yaw += turn[0]; view.pitch += turn[1]; later(); }
    });
  }
  draw();
}
"""


def packed(mesh: Mesh) -> dict[str, str]:
    """A mesh as the script reads it: 16-bit places, scaled to fit in a picture, and corners."""
    middle = (mesh.vertices.min(0) + mesh.vertices.max(0)) / 2
    centred = mesh.vertices - middle
    # the radius, not the largest coordinate: nothing leaves the picture when it is turned
    places = centred / np.linalg.norm(centred, axis=1).max() * SCALE
    return {
        "places": base64.b64encode(places.round().astype("<i2").tobytes()).decode(),
        "corners": base64.b64encode(mesh.faces.astype("<u4").tobytes()).decode(),
    }


def meshes(run: Path, order: list[str], seed: int) -> list[dict[str, Any]]:
    """The first clients' meshes of a run, at most ``MOST``: ``client``, ``method``, ``mesh``."""
    found: list[dict[str, Any]] = []
    clients = sorted({file.stem.rsplit("-", 1)[1] for file in (run / MESHES).glob("*.ply")})
    for client in clients:
        for method in order:
            file = run / MESHES / f"{method}-{seed}-{client}.ply"
            if file.exists() and len(found) < MOST:
                found.append(
                    {"client": int(client), "method": method, "mesh": packed(read_ply(file))}
                )
    return found
