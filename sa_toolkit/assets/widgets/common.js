// What all views share: colours, legends, the sequence, the structure, and who tells whom.
//
// A view has one state: what is selected, which Python shares, and what is hovered, which stays
// here. Panels draw that state and report `pick` and `hover`; no panel knows another one.
// Positions are 0-based everywhere but in the structure, whose residues are numbered 1..L.
// Each view's own file follows this one in the same module.

const SIZE = 376; // px, map and structure alike
const ACCENT = '#d6278b'; // what is selected
const HOVER = '#ee85bd'; // what is hovered; no shape is translucent, for the page shows through behind it
const DARK = '#1c2530'; // ink on a light colour
const LABEL = { fontSize: 13, fontColor: 'white', backgroundColor: '#27313d', backgroundOpacity: 0.85, inFront: true };
const ELEMENTS = { N: '#3b5bdb', O: '#e03131', S: '#e6b800', SE: '#f08c00', P: '#f76707', FE: '#c2540a', ZN: '#7d80b0', CL: '#2b9348', MG: '#2f9e44', CA: '#3c9d6b', NA: '#8f40d4' };
const LIGAND = '#2b8a3e'; // a ligand's carbon
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const NO_STRUCTURE = 'No structure was given, so there is nothing to draw here.';
const NO_WEBGL = 'This browser offers no WebGL, so the structure is not drawn; the map and the sequence work.';

function add(parent, tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

const clamp = (at, n) => Math.max(0, Math.min(n - 1, at)); // a position
const within = (value, low, high) => Math.max(low, Math.min(high, value));

// ---- what comes as bytes ----

// Bytes come as a view of a message; numbers in them need a buffer of their own to be aligned.
const bytesOf = raw => new Uint8Array(raw.buffer ?? raw, raw.byteOffset ?? 0, raw.byteLength);
const listOf = (Kind, raw) => new Kind(bytesOf(raw).slice().buffer);

// ---- canvases ----

// A canvas with a pixel for each of the screen's, and a pen that counts in CSS pixels
function sheet(parent, className, wide, high) {
  const canvas = add(parent, 'canvas', className), zoom = Math.max(1, window.devicePixelRatio);
  [canvas.width, canvas.height] = [Math.round(wide * zoom), Math.round(high * zoom)];
  const pen = canvas.getContext('2d');
  pen.scale(canvas.width / wide, canvas.height / high);
  return [canvas, pen];
}

// ---- switches ----

// Buttons of which one is pressed; `get` says which, `set` is told of a click
function choice(parent, label, names, get, set) {
  const group = add(parent, 'span', 'sa-choice');
  group.setAttribute('role', 'group');
  group.setAttribute('aria-label', label);
  const buttons = names.map((name, k) => {
    const button = add(group, 'button', 'sa-button', name);
    button.type = 'button';
    button.addEventListener('click', () => set(k));
    button.addEventListener('keydown', event => event.stopPropagation()); // Enter would run the cell
    return button;
  });
  return { show: () => buttons.forEach((button, k) => button.setAttribute('aria-pressed', k === get())) };
}

// ---- colours ----

// '#rrggbb' or '#rrggbbaa' as four numbers
function rgba(color) {
  const hex = color.length < 9 ? color + 'ff' : color;
  return [1, 3, 5, 7].map(at => parseInt(hex.slice(at, at + 2), 16));
}

// 256 colours between evenly spaced stops; colour 0 stands for a missing value
function rampTable(stops) {
  const ends = stops.map(rgba), table = [[0, 0, 0, 0]];
  for (let value = 1; value < 256; value++) {
    const at = (value - 1) / 254 * (ends.length - 1), k = Math.min(Math.floor(at), ends.length - 2);
    table.push(ends[k].map((low, c) => low + (ends[k + 1][c] - low) * (at - k)));
  }
  return table;
}

// Dark or white, whichever reads better on a colour (the contrast of WCAG 2)
function inkOn(color) {
  const [r, g, b] = rgba(color).map(part => part / 255).map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.217 ? DARK : '#ffffff'; // where both have a contrast of 3.9
}

function gradient(stops) {
  const colors = stops.map(rgba).map(([r, g, b, a]) => `rgba(${r},${g},${b},${a / 255})`);
  return `linear-gradient(to right, ${colors.join()})`;
}

// ---- legends ----

function cornerKey(parent, name, corner) {
  const key = add(parent, 'span', 'sa-key');
  if (corner) add(key, 'span', `sa-corner sa-${corner}`);
  add(key, 'span', '', name);
  return key;
}

function scaleKey(parent, { name, ramp, low, high }, corner) {
  const key = cornerKey(parent, name, corner);
  add(key, 'span', 'sa-end', low);
  add(key, 'span', 'sa-scale').style.backgroundImage = gradient(ramp);
  add(key, 'span', 'sa-end', high);
}

function swatchKey(parent, { name, color, shape }, corner) {
  const swatch = document.createElement('span');
  swatch.className = `sa-swatch sa-${shape}`;
  swatch.style.color = color;
  cornerKey(parent, name, corner).lastChild.before(swatch);
}

function sceneLegend(parent, data) {
  if (data.paint.name) scaleKey(parent, data.paint);
  if (data.paint.missing) swatchKey(parent, { name: 'no value', color: data.paint.missing, shape: 'full' });
  for (const mark of data.marks) if (mark.line) swatchKey(parent, { ...mark, shape: mark.line });
}

// ---- sequence ----

// A row of ten cells; `look` gives the text, colour and class of each
function cellRow(block, className, from, to, look) {
  const row = add(block, 'div', className);
  for (let i = from; i < to; i++) {
    const { text = '', color, kind } = look(i), node = add(row, 'span', kind, text);
    node.dataset.position = i;
    if (!color) continue;
    node.style.setProperty('--sa-own', color);
    if (text) node.style.setProperty('--sa-own-ink', inkOn(color));
  }
  return row;
}

function trackRows(block, tracks, from, to) {
  for (const { letters, colors } of tracks) {
    const kind = letters ? 'sa-cell' : 'sa-cell sa-strip', filled = `${kind} sa-filled`;
    cellRow(block, 'sa-row', from, to, i => ({ text: letters ? letters[i] : '', color: colors && colors[i], kind: colors && colors[i] ? filled : kind }));
  }
}

function trackNames(track, tracks) {
  const names = add(track, 'div', 'sa-block sa-names');
  add(names, 'div', 'sa-number');
  add(names, 'div', 'sa-letters').append(Object.assign(document.createElement('span'), { className: 'sa-letter-name', textContent: '\u00a0' }));
  for (const { name, letters } of tracks) add(names, 'div', letters ? 'sa-row sa-name' : 'sa-row sa-name sa-strip', name);
}

// Keys of the rows beneath the letters
function trackLegend(parent, { tracks, resolved }) {
  for (const { keys, scale, colors } of tracks) {
    for (const [name, color] of keys) if (colors.includes(color)) swatchKey(parent, { name, color, shape: 'full' });
    if (scale) scaleKey(parent, scale);
  }
  if (resolved.includes(false)) swatchKey(parent, { name: 'unresolved', color: 'var(--sa-soft)', shape: 'hatched' });
}

function sequencePanel(parent, data, report) {
  const track = add(parent, 'div', 'sa-sequence'), letters = [], tracks = data.tracks ?? [], n = data.sequence.length, known = i => data.resolved[i] || data.pdb === '';
  track.tabIndex = 0;
  track.setAttribute('role', 'group');
  track.setAttribute('aria-label', 'Sequence. Click a residue; shift-click a second one; arrow keys move.');
  if (tracks.length) trackNames(track, tracks);
  for (let from = 0; from < n; from += 10) {
    const block = add(track, 'div', 'sa-block'), to = Math.min(from + 10, n);
    add(block, 'div', 'sa-number', data.numbers[from]);
    const row = cellRow(block, 'sa-letters', from, to, i => ({ text: data.sequence[i], kind: known(i) ? 'sa-letter' : 'sa-letter sa-missing' }));
    letters.push(...row.children);
    trackRows(block, tracks, from, to);
  }
  letters.forEach((node, i) => { if (data.resolved[i]) node.style.borderBottomColor = data.paint.colors[i]; });
  const at = event => event.target.dataset?.position;
  track.addEventListener('pointermove', event => report.hover(at(event) === undefined ? [] : [Number(at(event))]));
  track.addEventListener('pointerleave', () => report.hover([]));
  track.addEventListener('click', event => at(event) !== undefined && report.pick([Number(at(event))], event.shiftKey));
  track.addEventListener('keydown', event => report.key(event, 1));

  const marked = { selected: [], hovered: [] };
  const mark = (name, positions) => {
    for (const i of marked[name]) letters[i].classList.remove(`sa-${name}`);
    for (const i of positions) letters[i].classList.add(`sa-${name}`);
    marked[name] = positions;
  };
  const reveal = node => { // scrolls the track alone; scrollIntoView would move the page as well
    const above = node.offsetTop - track.scrollTop;
    if (above < 0 || above > track.clientHeight - node.parentElement.parentElement.offsetHeight) track.scrollTop = node.offsetTop - track.clientHeight / 2;
  };
  return {
    show({ selection, hover }) {
      if (selection.length && selection.join() !== marked.selected.join()) reveal(letters[selection[0]]);
      mark('selected', selection);
      mark('hovered', hover);
    },
  };
}

// ---- structure ----

// 3Dmol comes from Python, once for all views of a page. Its build would hand itself to a page's
// `define` or spill into its globals; wrapped into a module it does neither.
function viewerLibrary(model) {
  return globalThis.saToolkit3Dmol ??= (async () => {
    const holder = await model.widget_manager.get_model(model.get('_library').replace('IPY_MODEL_', ''));
    const parts = ['const module = { exports: {} }, exports = module.exports, define = undefined;\n',
      holder.get('source'), '\nexport default module.exports;'];
    const url = URL.createObjectURL(new Blob(parts, { type: 'text/javascript' }));
    try {
      return (await import(url)).default;
    } finally {
      URL.revokeObjectURL(url);
    }
  })().catch(error => {
    delete globalThis.saToolkit3Dmol; // so that the next view tries again
    throw error;
  });
}

// Nothing is built for a view that is never scrolled to.
function seen(node) {
  return new Promise(resolve => {
    const watch = new IntersectionObserver(entries => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      watch.disconnect();
      resolve();
    });
    watch.observe(node);
  });
}

// WebGL is not asked for beforehand: a context made only to see whether one can be made takes a second without a GPU.
function emptyViewer(library, box) {
  try {
    const [viewer, leave] = overheard(() => library.createViewer(box, { backgroundAlpha: 0, hoverDuration: 60, cartoonQuality: 8 }));
    viewer.saLeave = leave;
    return viewer;
  } catch {
    throw new Error(NO_WEBGL);
  }
}

// 3Dmol listens to the page and never stops, which would hold every viewer for as long as the page is open.
function overheard(make) {
  const heard = [], places = [window, document.body];
  for (const place of places)
    place.addEventListener = (...args) => { heard.push([place, args]); EventTarget.prototype.addEventListener.apply(place, args); };
  try {
    return [make(), () => heard.forEach(([place, args]) => place.removeEventListener(...args))];
  } finally {
    for (const place of places) delete place.addEventListener;
  }
}

const colorOf = (atom, carbon) => atom.elem === 'C' ? carbon : ELEMENTS[String(atom.elem).toUpperCase()] ?? '#8a8f98';
const BACKBONE = ['N', 'C', 'O'];

// `show` says whether side chains and ligands are drawn
function styleViewer({ viewer, protein, ligands }, data, show) {
  const own = atom => data.paint.colors[atom.resi - 1];
  viewer.setStyle({ model: protein }, { cartoon: { colorfunc: own, arrows: true, thickness: 0.5 } });
  if (show.sides) viewer.addStyle({ model: protein, not: { atom: BACKBONE } }, { stick: { radius: 0.13, colorfunc: atom => colorOf(atom, own(atom)) } });
  if (!ligands) return;
  const color = atom => colorOf(atom, LIGAND);
  viewer.setStyle({ model: ligands }, show.ligands ? { stick: { radius: 0.2, colorfunc: color }, sphere: { scale: 0.25, colorfunc: color } } : {});
}

// The residues of ligands are a model of their own, so that picking cannot take them for the chain's.
function makeViewer(library, box, data, report, show = {}) {
  const viewer = emptyViewer(library, box), position = atom => atom.resi - 1;
  const protein = viewer.addModel(data.pdb, 'pdb'), ligands = data.hetero ? viewer.addModel(data.hetero, 'pdb') : null;
  styleViewer({ viewer, protein, ligands }, data, show);
  viewer.setClickable({ model: protein }, true, (atom, _, event) => report.pick([position(atom)], event?.shiftKey));
  const here = act => atom => { if (box.matches(':hover')) act(atom); }; // 3Dmol tells late, when the pointer may have left
  viewer.setHoverable({ model: protein }, true, here(atom => report.hover([position(atom)])), () => report.hover([]));
  if (ligands) {
    viewer.setHoverable({ model: ligands }, true, here(atom => report.note(data.ligands[position(atom) - data.sequence.length] ?? 'ligand')), () => report.note(''));
    viewer.setClickable({ model: ligands }, true, () => {}); // or the click would go through it to a residue behind
  }
  for (const mark of data.marks)
    for (const [i, j] of mark.line ? mark.pairs : [])
      if (data.cb[i] && data.cb[j]) viewer.addCylinder(line(data, i, j, { color: mark.color, radius: 0.2, dashed: mark.line === 'dashed' }));
  viewer.zoomTo();
  viewer.zoom(1.1); // it leaves room for a sphere around everything; whoever made it draws it
  viewer.saModels = { viewer, protein, ligands };
  return viewer;
}

// Lines of marks that come and go. A shape of its own for each line would be a draw call each; one shape for all is filled in quadratic time.
function drawLines(viewer, data, marks) {
  const shapes = [];
  for (const { pairs, color, line: kind } of marks) {
    const there = kind ? pairs.filter(([i, j]) => data.cb[i] && data.cb[j]) : [];
    for (let k = 0; k < there.length; k += 40) {
      const shape = viewer.addShape({ color });
      for (const [i, j] of there.slice(k, k + 40)) {
        if (kind === 'dashed') shape.addDashedCylinder(line(data, i, j, { color, radius: 0.12, dashLength: 1, gapLength: 0.8 }));
        else shape.addCylinder(line(data, i, j, { color, radius: 0.16, fromCap: 1, toCap: 1 }));
      }
      shapes.push(shape);
    }
  }
  return { clear: () => shapes.forEach(s => viewer.removeShape(s)) };
}

const point = ([x, y, z]) => ({ x, y, z });
const line = (data, i, j, look) => ({ start: point(data.cb[i]), end: point(data.cb[j]), dashLength: 0.5, gapLength: 0.35, ...look });

// Residues are highlighted by shapes, so that the cartoon is never built again.
function drawSelection(viewer, data, selection) {
  const there = selection.filter(i => data.cb[i]);
  const shapes = there.map(i => viewer.addSphere({ center: point(data.cb[i]), radius: 1.15, color: ACCENT }));
  const labels = there.map(i => viewer.addLabel(data.names[i], { ...LABEL, position: point(data.cb[i]), alignment: 'bottomLeft', screenOffset: { x: 7, y: -5 } }));
  if (there.length === 2) shapes.push(viewer.addCylinder(line(data, ...there, { color: ACCENT, radius: 0.2, dashed: true })));
  return { there, clear: () => { shapes.forEach(s => viewer.removeShape(s)); labels.forEach(l => viewer.removeLabel(l)); } };
}

function drawHover(viewer, data, hover) {
  const shapes = hover.filter(i => data.cb[i])
    .map(i => viewer.addSphere({ center: point(data.cb[i]), radius: 1.2, color: HOVER }));
  return { clear: () => shapes.forEach(s => viewer.removeShape(s)) };
}

// Where the browser has an OffscreenCanvas all viewers of a page share one WebGL context, which must
// outlive them; elsewhere each canvas has its own, and browsers allow about sixteen.
function dispose(viewer, box) {
  const canvas = box.querySelector('canvas');
  box.remove(); // first, or 3Dmol would revive the context it is about to lose
  box.replaceChildren();
  viewer.divwatcher?.disconnect();
  viewer.intwatcher?.disconnect();
  viewer.clear();
  viewer.saLeave();
  delete canvas?._3dmol_viewer;
  canvas?.getContext('webgl2')?.getExtension('WEBGL_lose_context')?.loseContext();
}

function scenePanel(parent, data, report, model, root) {
  const box = add(parent, 'div', 'sa-frame sa-scene sa-fits');
  const notice = add(box, 'div', 'sa-notice', data.pdb ? 'Loading the structure …' : NO_STRUCTURE);
  const drawn = {}, plain = JSON.stringify({});
  let viewer, state, waiting, gone = false;
  box.tabIndex = 0;
  box.setAttribute('role', 'application'); // or a screen reader would keep the arrow keys to itself
  box.setAttribute('aria-label', 'Structure. Arrow keys move the selection along the chain; Escape clears it. Drag to turn, click a residue; after a click the wheel zooms.');
  box.addEventListener('keydown', event => report.key(event, 1));
  box.addEventListener('pointerleave', () => { report.hover([]); if (data.ligands?.length) report.note(''); }); // 3Dmol does not tell
  box.addEventListener('pointerdown', () => box.focus({ preventScroll: true }));
  // A wheel turned over a structure means to scroll the page, unless one works with the structure.
  box.addEventListener('wheel', event => { if (document.activeElement !== box && !event.ctrlKey) event.stopPropagation(); }, { capture: true });

  const draw = () => {
    waiting = undefined;
    if (!viewer || gone) return;
    const { selection } = state, hover = state.hover.filter(i => !selection.includes(i));
    for (const [name, make, positions] of [['selection', drawSelection, selection], ['hover', drawHover, hover]]) {
      if (drawn[name]?.of === positions.join()) continue;
      drawn[name]?.clear();
      drawn[name] = { ...make(viewer, data, positions), of: positions.join() };
    }
    if (drawn.lines?.of !== state.lines) {
      drawn.lines?.clear();
      drawn.lines = { ...drawLines(viewer, data, state.lines ?? []), of: state.lines };
    }
    const style = JSON.stringify(state.show ?? {});
    if (style !== (drawn.style ?? plain)) {
      styleViewer(viewer.saModels, data, state.show ?? {});
      drawn.style = style;
    }
    viewer.render();
    root.dataset.highlighted = drawn.selection.there.join();
  };
  const start = async () => {
    await seen(box);
    if (gone) return;
    if (!data.pdb) { root.dataset.ready = 'map'; return; }
    const library = await viewerLibrary(model);
    if (gone) return;
    drawn.style = JSON.stringify(state?.show ?? {});
    viewer = makeViewer(library, box, data, report, state?.show);
    notice.remove();
    root.dataset.ready = 'structure';
    draw();
  };
  start().catch(error => { notice.textContent = error.message ?? String(error); root.dataset.ready = 'map'; });
  return {
    get viewer() { return viewer; },
    show(next) { state = next; waiting ??= requestAnimationFrame(draw); },
    dispose() { // whoever still holds the view then holds no viewer
      gone = true;
      if (viewer) dispose(viewer, box);
      viewer = undefined;
      for (const name of Object.keys(drawn)) delete drawn[name];
    },
  };
}

// ---- controls ----

// Small native inputs, so that keyboard and screen reader work; each calls `change(value, final)`
function selectInput(parent, label, options, value, change) {
  const box = add(parent, 'label', 'sa-control', label), input = add(box, 'select', '');
  for (const [key, text] of options) add(input, 'option', '', text).value = key;
  input.value = value;
  input.addEventListener('change', () => change(input.value, true));
  return input;
}

function sliderInput(parent, label, value, change) {
  const box = add(parent, 'label', 'sa-control', label), input = add(box, 'input', ''), said = add(box, 'output', 'sa-output', value.toFixed(2));
  Object.assign(input, { type: 'range', min: 0, max: 1, step: 0.01, value });
  const tell = final => () => { said.textContent = Number(input.value).toFixed(2); change(Number(input.value), final); };
  input.addEventListener('input', tell(false));
  input.addEventListener('change', tell(true));
  return { set value(next) { input.value = next; said.textContent = next.toFixed(2); } };
}

function checkInput(parent, label, checked, change) {
  const box = add(parent, 'label', 'sa-control'), input = add(box, 'input', '');
  Object.assign(input, { type: 'checkbox', checked });
  box.append(label);
  input.addEventListener('change', () => change(input.checked, true));
  return input;
}

// ---- a view ----

function reporter(model, n, state, show) {
  const pick = (positions, extend = false) => {
    const first = model.get('selection')[0];
    const next = extend && first !== undefined ? [first, ...positions] : positions;
    model.set('selection', [...new Set(next)]);
    model.save_changes();
  };
  const hover = positions => {
    if (positions.join() === state.hover.join()) return;
    state.hover = positions;
    show();
  };
  const key = (event, dimensions) => {
    const step = ARROWS[event.key], now = model.get('selection');
    if (event.key === 'Escape') pick([]);
    else if (!step) return;
    else if (dimensions === 1) pick([clamp((now.at(-1) ?? -1) + step[0] + step[1], n)]);
    else pick([now[0] ?? 0, now.at(-1) ?? 0].map((at, k) => clamp(at + step[k], n)));
    event.preventDefault();
    event.stopPropagation();
  };
  const note = text => {
    state.note = text;
    show();
  };
  return { pick, hover, key, note };
}

function layout(el, data) {
  const root = add(el, 'div', 'sa-view'); // Jupyter styles `el` itself, so it stays bare
  root.dataset.lmSuppressShortcuts = 'true';
  root.style.setProperty('--sa-size', `${SIZE}px`);
  root.style.setProperty('--sa-accent', ACCENT);
  const head = add(root, 'div', 'sa-head');
  add(head, 'span', 'sa-title', data.title);
  add(head, 'span', 'sa-subtitle', data.subtitle);
  const panels = add(root, 'div', 'sa-panels');
  const [left, right] = [add(panels, 'div', 'sa-panel sa-left'), add(panels, 'div', 'sa-panel')];
  return { root, left, right };
}

// A view's `render`: `build` makes it, which gives `show` and `dispose`; what Python changes in one of
// `names` is shown, other data make another view. The front calls what `render` gives when the output goes.
function renderer(build, ...names) {
  return ({ model, el }) => {
    let view = build(model, el);
    const heard = { 'change:data': () => { view.dispose(); view = build(model, el); } };
    for (const name of names) heard[`change:${name}`] = () => view.show(name);
    for (const [event, act] of Object.entries(heard)) model.on(event, act);
    return () => {
      for (const [event, act] of Object.entries(heard)) model.off(event, act);
      view.dispose();
      delete el.__saView;
    };
  };
}
