// A contact map, a structure and a sequence that point at the same residues; common.js goes before.

// ---- legend ----

const scaleOf = ({ ramp, low, high }) => JSON.stringify([ramp, low, high]);

function mapLegend(parent, data) {
  for (const [k, layer] of data.layers.entries()) {
    const corner = layer.side === 'both' ? null : layer.side, next = data.layers[k + 1];
    if (layer.words) swatchKey(parent, { name: layer.name, color: layer.ramp.at(-1), shape: 'full' }, corner);
    else if (next && scaleOf(next) === scaleOf(layer)) cornerKey(parent, layer.name, corner); // the next one shows the scale
    else scaleKey(parent, layer, corner);
  }
  for (const mark of data.marks) swatchKey(parent, { ...mark, shape: mark.filled ? 'full' : 'open' });
}

// ---- contact map ----

const upperOf = ([i, j]) => [Math.min(i, j), Math.max(i, j)];
const cellsOf = { upper: pair => [upperOf(pair)], lower: pair => [upperOf(pair).reverse()],
  both: pair => [upperOf(pair), upperOf(pair).reverse()] };
const layerAt = (data, i, j) => data.layers.find(layer => layer.side === 'both' || layer.side === (i < j ? 'upper' : 'lower'));

function mapImage(data, n) {
  const tables = new Map(data.layers.map(layer => [layer, rampTable(layer.ramp)]));
  const upper = tables.get(layerAt(data, 0, 1)), lower = tables.get(layerAt(data, 1, 0));
  const image = new ImageData(n, n);
  for (let i = 0, k = 0; i < n; i++)
    for (let j = 0; j < n; j++, k++) image.data.set((i < j ? upper : lower)[data.values[k]], 4 * k);
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = n;
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

function sharpCanvas(parent, className) {
  const canvas = add(parent, 'canvas', className), zoom = Math.max(1, window.devicePixelRatio);
  canvas.width = canvas.height = Math.round(SIZE * zoom);
  const pen = canvas.getContext('2d');
  pen.scale(canvas.width / SIZE, canvas.width / SIZE);
  return [canvas, pen];
}

function drawMarks(pen, data, cell) {
  const side = Math.max(cell, 4);
  for (const { pairs, color, filled, side: where } of data.marks)
    for (const pair of pairs)
      for (const [i, j] of cellsOf[where](pair)) {
        const x = (j + 0.5) * cell - side / 2, y = (i + 0.5) * cell - side / 2;
        pen.fillStyle = pen.strokeStyle = color;
        if (filled) pen.fillRect(x, y, side, side);
        else pen.strokeRect(x, y, side, side);
      }
}

function drawPointer(pen, positions, cell, strength) {
  if (!positions.length) return;
  const [i, j] = [positions[0], positions.at(-1)];
  pen.fillStyle = ACCENT;
  pen.globalAlpha = 0.3 * strength;
  const band = Math.max(cell, 1.5);
  pen.fillRect(0, (i + 0.5) * cell - band / 2, SIZE, band);
  pen.fillRect((j + 0.5) * cell - band / 2, 0, band, SIZE);
  pen.globalAlpha = strength;
  const side = Math.max(cell, 4) + 4;
  for (const [color, width] of [['#ffffff', 3.5], [ACCENT, 1.75]]) { // a white halo, for dark cells
    pen.strokeStyle = color;
    pen.lineWidth = width;
    for (const [y, x] of [[i, j], [j, i]]) pen.strokeRect((x + 0.5) * cell - side / 2, (y + 0.5) * cell - side / 2, side, side);
  }
  pen.globalAlpha = 1;
}

function mapPanel(parent, data, n, report) {
  const cell = SIZE / n, frame = add(parent, 'div', 'sa-frame sa-map-frame');
  const [, ground] = sharpCanvas(frame, 'sa-map-image'), [over, pen] = sharpCanvas(frame, 'sa-map');
  for (const [i, text] of data.ticks) {
    add(frame, 'span', 'sa-tick sa-tick-left', text).style.top = `${(i + 0.5) * cell}px`;
    add(frame, 'span', 'sa-tick sa-tick-bottom', text).style.left = `${(i + 0.5) * cell}px`;
  }
  ground.imageSmoothingEnabled = n > SIZE;
  ground.drawImage(mapImage(data, n), 0, 0, SIZE, SIZE);
  drawMarks(ground, data, cell);

  const at = event => [event.offsetY, event.offsetX].map(px => Math.max(0, Math.min(n - 1, Math.floor(px / cell))));
  over.tabIndex = 0;
  over.setAttribute('role', 'img');
  over.setAttribute('aria-label', 'Contact map. Click a pair of residues; arrow keys move it.');
  // A click comes at whole pixels, which can be another pair than the one pointed at.
  let pointed = [0, 0];
  const point = event => report.hover(pointed = at(event));
  over.addEventListener('pointermove', point);
  over.addEventListener('pointerdown', point);
  over.addEventListener('pointerleave', () => report.hover([]));
  over.addEventListener('click', () => { over.focus({ preventScroll: true }); report.pick(pointed); });
  over.addEventListener('keydown', event => report.key(event, 2));
  return {
    show({ selection, hover }) {
      pen.clearRect(0, 0, SIZE, SIZE);
      drawPointer(pen, selection, cell, 1);
      drawPointer(pen, hover, cell, 0.6);
    },
  };
}

// ---- what is pointed at, in words ----

function valueAt(data, n, i, j) {
  const layer = layerAt(data, i, j), value = data.values[i * n + j];
  if (!value) return `${layer.name} unknown`;
  if (layer.words) return layer.words[value > 127 ? 1 : 0];
  return `${layer.name} ${(layer.low + (value - 1) / 254 * (layer.high - layer.low)).toFixed(2)}`;
}

function words(data, n, positions) {
  if (!positions.length) return '';
  const name = i => data.names[i] + (data.resolved[i] ? '' : ' (unresolved)');
  const [i, j] = [positions[0], positions.at(-1)];
  if (i === j) return [name(i), data.paint.words?.[i]].filter(Boolean).join(' · ');
  const parts = [`${name(i)} – ${name(j)}`];
  if (data.cb[i] && data.cb[j]) parts.push(`Cβ–Cβ ${Math.hypot(...data.cb[i].map((x, k) => x - data.cb[j][k])).toFixed(1)} Å`);
  const cells = data.layers.length > 1 ? cellsOf.both([i, j]) : [[i, j]];
  return parts.concat(cells.map(cell => valueAt(data, n, ...cell))).join(' · ');
}

// ---- the view ----

function build(model, el) {
  const data = { ...model.get('data') }, n = data.sequence.length, state = { selection: [], hover: [] };
  const bytes = data.matrix;
  data.values = new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, n * n);
  const { root, left, right } = layout(el, data), panels = [];
  const show = () => {
    state.selection = model.get('selection');
    root.dataset.selection = state.selection.join();
    readout.textContent = words(data, n, state.hover.length ? state.hover : state.selection) || data.hint;
    for (const panel of panels) panel.show({ ...state });
  };
  const report = reporter(model, n, state, show);
  const scene = scenePanel(right, data, report, model, root);
  panels.push(mapPanel(left, data, n, report), scene);
  mapLegend(add(left, 'div', 'sa-legend'), data);
  sceneLegend(add(right, 'div', 'sa-legend'), data);
  const readout = add(root, 'div', 'sa-readout');
  readout.setAttribute('aria-live', 'polite');
  panels.push(sequencePanel(root, data, report));
  if (data.caption) add(root, 'div', 'sa-caption', data.caption);
  show();
  el.__saView = { scene, state, data }; // for tests
  return { show, dispose: () => { scene.dispose(); root.remove(); } };
}

function render({ model, el }) {
  let view = build(model, el);
  const show = () => view.show();
  const rebuild = () => { view.dispose(); view = build(model, el); };
  model.on('change:selection', show);
  model.on('change:data', rebuild);
  return () => {
    model.off('change:selection', show);
    model.off('change:data', rebuild);
    view.dispose();
  };
}

export default { render };
