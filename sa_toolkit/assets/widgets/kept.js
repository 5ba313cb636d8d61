
// Which residues of a chain the loss selection kept, over the steps of a run. `common.js` goes before.
//
// A cell is two bytes: 0 has no label, the highest bit is kept, the rest is the excess. While steps
// are played nothing is told to Python; where it stops, is.

const HISTORY = [376, 222], BARS = [376, 88];
const PLAY = 110; // ms a step
const MOST_STEPS = 160; // shown in one play

// ---- data ----

function prepare(raw) {
  const data = { ...raw, n: raw.chain.sequence.length, colors: raw.states.map(({ color }) => color) };
  data.losses = raw.losses.map(one => {
    const cells = listOf(Uint16Array, one.cells), counts = listOf(Uint32Array, one.counts);
    return { ...one, cells, counts, threshold: listOf(Float32Array, one.threshold), share: shares(cells, data.n, raw.steps.length),
      most: counts.reduce((most, count, at) => Math.max(most, count + (at % (2 * data.bins) < data.bins ? counts[at + data.bins] : 0)), 1) };
  });
  return data;
}

const stateOf = cell => cell === 0 ? 2 : cell > 32767 ? 0 : 1; // kept, left out, no label

function shares(cells, n, steps) {
  const kept = new Float32Array(n), seen = new Float32Array(n);
  for (let k = 0, at = 0; k < steps; k++)
    for (let i = 0; i < n; i++, at++) if (cells[at]) { seen[i]++; if (cells[at] > 32767) kept[i]++; }
  return kept.map((count, i) => seen[i] ? count / seen[i] : NaN);
}

const minus = text => text.replace('-', '−');
function excessOf({ cells, low, high }, at) {
  const cell = cells[at];
  return cell ? low + ((cell & 32767) - 1) / 32766 * (high - low) : NaN;
}

// ---- canvases ----

const word = color => new Uint32Array(new Uint8ClampedArray(rgba(color)).buffer)[0];

function picture(width, height, fill) {
  const image = new ImageData(width, height), words = new Uint32Array(image.data.buffer), canvas = document.createElement('canvas');
  fill(words);
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

// ---- all steps of a loss ----

function historyPanel(parent, data, state, report) {
  const [wide, high] = HISTORY, frame = add(parent, 'div', 'sa-frame sa-map-frame sa-history'), images = [];
  const [, ground] = sheet(frame, '', ...HISTORY), [over, pen] = sheet(frame, 'sa-history-over', ...HISTORY);
  const rows = data.steps.length, words = data.colors.map(color => word(color));
  const y = k => (k + 0.5) / rows * high, x = i => (i + 0.5) / data.n * wide;
  for (const [i, text] of data.chain.ticks) add(frame, 'span', 'sa-tick sa-tick-bottom', text).style.left = `${100 * x(i) / wide}%`;
  for (const k of new Set([0, 0.25, 0.5, 0.75, 1].map(part => Math.round(part * (rows - 1))))) add(frame, 'span', 'sa-tick sa-tick-left', `${data.steps[k]}`).style.top = `${100 * y(k) / high}%`;
  let drawn = -1;
  const paintGround = () => {
    if (drawn === state.loss) return;
    drawn = state.loss;
    const { cells } = data.losses[drawn];
    images[drawn] ??= picture(data.n, rows, out => { for (let at = 0; at < out.length; at++) out[at] = words[stateOf(cells[at])]; });
    ground.clearRect(0, 0, wide, high);
    ground.imageSmoothingEnabled = data.n > wide || rows > high;
    ground.drawImage(images[drawn], 0, 0, wide, high);
  };
  const at = event => [Math.floor(event.offsetY / over.clientHeight * rows), Math.floor(event.offsetX / over.clientWidth * data.n)].map((part, k) => clamp(part, k ? data.n : rows));
  over.tabIndex = 0;
  over.setAttribute('role', 'application'); // a screen reader hands the arrow keys on
  over.setAttribute('aria-label', 'Kept and left-out residues, a line for each step. Click a residue of a step; up and down arrow change the step, left and right the residue, the space bar plays the steps, Escape lets go.');
  over.addEventListener('pointermove', event => { const [k, i] = at(event); report.hover(i, k); });
  over.addEventListener('pointerleave', () => report.hover(null));
  over.addEventListener('click', event => { over.focus({ preventScroll: true }); const [k, i] = at(event); report.go(k, true); report.pick(i); });
  over.addEventListener('keydown', event => {
    const step = ARROWS[event.key];
    if (step?.[0]) report.go(state.at + step[0], true);
    else return report.key(event);
    event.preventDefault();
    event.stopPropagation();
  });
  const bar = (left, top, w, h, color, strength) => {
    pen.globalAlpha = strength;
    pen.fillStyle = color;
    pen.fillRect(left, top, w, h);
    pen.globalAlpha = 1;
  };
  return { show() {
    paintGround();
    pen.clearRect(0, 0, wide, high);
    const tall = Math.max(high / rows, 2);
    bar(0, y(state.at) - tall / 2 - 1, wide, 1.5, '#000000', 1);
    bar(0, y(state.at) + tall / 2 - 0.5, wide, 1.5, '#000000', 1);
    if (state.hover !== null) bar(x(state.hover) - 1, 0, 2, high, ACCENT, 0.5);
    if (state.pick !== null) bar(x(state.pick) - 1, 0, 2, high, ACCENT, 1);
  } };
}

// ---- excess of the step ----

function barsPanel(parent, data, state) {
  const key = add(parent, 'div', 'sa-legend sa-bars-key'), frame = add(parent, 'div', 'sa-bars'), [canvas, pen] = sheet(frame, '', ...BARS), [wide, high] = BARS;
  const ends = ['left', 'right'].map(side => { const node = add(frame, 'span', 'sa-end'); node.style[side] = 0; return node; });
  canvas.setAttribute('role', 'img');
  return { show() {
    const { counts, edges: [low, top], threshold, most } = data.losses[state.loss], from = state.at * 2 * data.bins, width = wide / data.bins;
    const total = counts.subarray(from, from + 2 * data.bins).reduce((sum, count) => sum + count, 0), x = value => (within(value, low, top) - low) / (top - low) * wide;
    pen.clearRect(0, 0, wide, high);
    for (let b = 0; b < data.bins; b++) {
      let base = high - 1;
      for (const k of [0, 1]) {
        const tall = counts[from + k * data.bins + b] / most * (high - 18);
        pen.fillStyle = data.colors[k];
        pen.fillRect(b * width + 0.5, base - tall, width - 1, tall);
        base -= tall;
      }
    }
    pen.fillStyle = getComputedStyle(frame).color;
    pen.fillRect(0, high - 1, wide, 1);
    const cut = threshold[state.at], said = Number.isNaN(cut) ? 'no threshold' : `threshold ${minus(cut.toFixed(2))}`;
    if (!Number.isNaN(cut)) pen.fillRect(x(cut) - 0.75, 8, 1.5, high - 8);
    const mine = state.pick === null ? NaN : excessOf(data.losses[state.loss], state.at * data.n + state.pick);
    if (!Number.isNaN(mine)) {
      pen.fillStyle = ACCENT;
      pen.beginPath();
      pen.moveTo(x(mine), 12); pen.lineTo(x(mine) - 5, 3); pen.lineTo(x(mine) + 5, 3);
      pen.fill();
      pen.fillRect(x(mine) - 0.75, 12, 1.5, high - 13);
    }
    [ends[0].textContent, ends[1].textContent] = [`≤ ${minus(low.toFixed(2))}`, `≥ ${minus(top.toFixed(2))}`];
    key.textContent = `Excess of the step’s ${total.toLocaleString('en')} residues · ${said}`;
    canvas.setAttribute('aria-label', key.textContent);
  } };
}

// ---- a row for each loss ----

function rowsPanel(parent, data, state, report) {
  const grid = add(parent, 'div', 'sa-rows'), words = data.colors.map(color => word(color));
  grid.tabIndex = 0;
  grid.setAttribute('role', 'group');
  grid.setAttribute('aria-label', 'Kept residues of this step, a row for each loss. Left and right arrow move along the chain.');
  const rows = data.losses.map(loss => {
    add(grid, 'span', 'sa-rows-name', loss.name);
    const pair = add(grid, 'div', 'sa-rows-pair'), now = add(pair, 'canvas', 'sa-now'), share = add(pair, 'canvas', 'sa-share');
    [now.width, now.height, share.width, share.height] = [data.n, 1, data.n, 1];
    const [r, g, b] = rgba(data.colors[0]);
    share.getContext('2d').drawImage(picture(data.n, 1, out => { for (let i = 0; i < data.n; i++) out[i] = Number.isNaN(loss.share[i]) ? 0 : new Uint32Array(new Uint8ClampedArray([r, g, b, 20 + 235 * loss.share[i]]).buffer)[0]; }), 0, 0);
    return { loss, now: now.getContext('2d'), pair };
  });
  const here = add(grid, 'span', 'sa-here'), image = new ImageData(data.n, 1), out = new Uint32Array(image.data.buffer);
  const place = event => {
    const box = rows[0].pair.getBoundingClientRect();
    return event.clientX < box.left ? null : clamp(Math.floor((event.clientX - box.left) / box.width * data.n), data.n);
  };
  grid.addEventListener('pointermove', event => report.hover(place(event)));
  grid.addEventListener('pointerleave', () => report.hover(null));
  grid.addEventListener('click', event => { const i = place(event); if (i !== null) report.pick(i); });
  grid.addEventListener('keydown', report.key);
  return { show() {
    for (const { loss, now } of rows) {
      for (let i = 0, at = state.at * data.n; i < data.n; i++, at++) out[i] = words[stateOf(loss.cells[at])];
      now.putImageData(image, 0, 0);
    }
    const i = state.hover ?? state.pick;
    here.hidden = i === null;
    if (i !== null) here.style.left = `${rows[0].pair.offsetLeft + (i + 0.5) / data.n * rows[0].pair.clientWidth - 1}px`;
  } };
}

function rowsLegend(parent, data) {
  const key = add(parent, 'div', 'sa-legend sa-rows-key');
  for (const { name, color } of data.states) swatchKey(key, { name, color, shape: 'full' });
  scaleKey(key, { name: 'beneath: share of the steps in which it was kept', ramp: [`${data.colors[0]}14`, `${data.colors[0]}ff`], low: '0', high: '1' });
}

// ---- structure and letters ----

// Colouring builds the cartoon again, so it waits for twice as long as the last time took.
function painter(scene, chain) {
  let due = 0, timer;
  const paint = () => {
    timer = undefined;
    if (!scene.viewer) return; // it will be built in the colours of that moment
    const start = performance.now();
    styleViewer(scene.viewer.saModels, chain, {});
    scene.viewer.render();
    due = performance.now() + 2 * (performance.now() - start);
  };
  return { later() { timer ??= setTimeout(paint, Math.max(0, due - performance.now())); }, stop: () => clearTimeout(timer) };
}

function chainPanels(root, right, below, data, state, report, model) {
  const local = { pick: positions => report.pick(positions.at(-1)), hover: positions => report.hover(positions[0] ?? null), key: report.key };
  const chain = { ...data.chain, marks: [], paint: { colors: [], name: '' } };
  const colors = () => { const { cells } = data.losses[state.loss]; return Array.from({ length: data.n }, (_, i) => data.colors[stateOf(cells[state.at * data.n + i])]); };
  chain.paint.colors = colors();
  const scene = scenePanel(right, chain, local, model, root), sequence = sequencePanel(below, chain, local), paint = painter(scene, chain);
  const letters = [...below.querySelectorAll('.sa-letter')];
  let drawn = `${state.at} ${state.loss}`;
  return { scene, chain, dispose() { paint.stop(); scene.dispose(); }, show() {
    const key = `${state.at} ${state.loss}`;
    if (key !== drawn) {
      drawn = key;
      const next = colors();
      letters.forEach((node, i) => { if (chain.resolved[i] && next[i] !== chain.paint.colors[i]) node.style.borderBottomColor = next[i]; });
      chain.paint.colors = next;
      paint.later();
    }
    const positions = { selection: state.pick === null ? [] : [state.pick], hover: state.hover === null ? [] : [state.hover] };
    sequence.show(positions);
    scene.show(positions);
  } };
}

// ---- controls ----

function controls(root, data, state, report, tell) {
  const bar = add(root, 'div', 'sa-play'), losses = choice(bar, 'Loss', data.losses.map(({ name }) => name), () => state.loss, k => tell('loss', data.losses[k].name));
  const box = add(bar, 'span', 'sa-choice'), play = add(box, 'button', 'sa-button', '▶ play'), slider = add(bar, 'input', 'sa-slider'), said = add(bar, 'span', 'sa-step');
  play.type = 'button';
  Object.assign(slider, { type: 'range', min: 0, max: data.steps.length - 1 });
  slider.setAttribute('aria-label', 'Step');
  slider.addEventListener('input', () => report.go(Number(slider.value)));
  slider.addEventListener('change', () => report.go(Number(slider.value), true));
  let timer;
  const stop = () => { clearInterval(timer); timer = undefined; };
  const toggle = () => {
    if (timer) { stop(); report.go(state.at, true); return; }
    const stride = Math.max(1, Math.round(data.steps.length / MOST_STEPS)), last = data.steps.length - 1;
    if (state.at === last) report.go(0);
    timer = setInterval(() => {
      report.go(Math.min(state.at + stride, last));
      if (state.at === last) { stop(); report.go(last, true); }
    }, PLAY);
    report.go(state.at);
  };
  play.addEventListener('click', toggle);
  for (const node of [play, slider]) node.addEventListener('keydown', event => event.stopPropagation()); // a notebook would take the keys
  return { toggle, stop, show() {
    losses.show();
    slider.value = state.at;
    play.textContent = timer ? '❚❚ pause' : '▶ play';
    said.textContent = `step ${data.steps[state.at].toLocaleString('en')}`;
  } };
}

// ---- the view ----

function words(data, state) {
  const i = state.hover ?? state.pick;
  if (i === null) return data.hint;
  const k = state.over ?? state.at;
  const said = data.losses.map(loss => {
    const at = k * data.n + i, what = stateOf(loss.cells[at]);
    return `${loss.name} ${data.states[what].name}${what < 2 ? ` (excess ${minus(excessOf(loss, at).toFixed(2))})` : ''}`;
  });
  return [data.chain.names[i], `step ${data.steps[k].toLocaleString('en')}`, ...said].join(' · ');
}

function makeReport(model, data, state, later, tell) {
  const go = (k, told = false) => {
    state.at = clamp(k, data.steps.length);
    if (told) {
      state.told = data.steps[state.at];
      tell('step', state.told);
    }
    later();
  };
  const pick = i => { tell('selection', i === null ? [] : [i]); };
  const hover = (i, k = null) => {
    if (i === state.hover && k === state.over) return;
    [state.hover, state.over] = [i, k];
    later();
  };
  const key = event => {
    const step = ARROWS[event.key];
    if (event.key === 'Escape') pick(null);
    else if (event.key === ' ') state.toggle();
    else if (step) pick(clamp((state.pick ?? -1) + step[0] + step[1], data.n));
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return { go, pick, hover, key };
}

function build(model, el) {
  const data = prepare(model.get('data')), state = { at: 0, loss: 0, pick: null, hover: null, over: null };
  const { root, left, right } = layout(el, data), tell = (name, value) => { model.set(name, value); model.save_changes(); };
  root.classList.add('sa-history-view');
  let waiting;
  const later = () => { waiting ??= requestAnimationFrame(() => { waiting = undefined; draw(); }); };
  const read = () => {
    if (model.get('step') !== state.told) { // steps that are played or slid past are not told, and stay
      state.told = model.get('step');
      state.at = Math.max(0, data.steps.indexOf(state.told));
    }
    state.loss = Math.max(0, data.losses.findIndex(({ name }) => name === model.get('loss')));
    state.pick = model.get('selection')[0] ?? null;
    root.dataset.selection = model.get('selection').join();
  };
  read();
  const report = makeReport(model, data, state, later, tell), bar = controls(root, data, state, report, tell);
  state.toggle = bar.toggle;
  root.querySelector('.sa-head').after(root.querySelector('.sa-play'));
  const panels = [bar, historyPanel(left, data, state, report), barsPanel(left, data, state)], readout = add(root, 'div', 'sa-readout');
  readout.setAttribute('aria-live', 'polite');
  panels.push(rowsPanel(root, data, state, report));
  rowsLegend(root, data);
  const chain = chainPanels(root, right, add(root, 'div', ''), data, state, report, model);
  panels.push(chain);
  const draw = () => {
    for (const panel of panels) panel.show();
    root.dataset.step = data.steps[state.at];
    root.dataset.loss = data.losses[state.loss].name;
    readout.textContent = words(data, state);
  };
  draw();
  el.__saView = { scene: chain.scene, data: chain.chain, state, all: data }; // for tests
  return { show() { read(); later(); }, dispose: () => { bar.stop(); cancelAnimationFrame(waiting); chain.dispose(); root.remove(); } };
}

const render = renderer(build, 'selection', 'step', 'loss');

export default { render };
