
// A page without Jupyter: the few parts of a Jupyter model that a view's `render` uses. It goes last.
const unpacked = value => { // bytes were written as base64
  if (Array.isArray(value)) return value.map(unpacked);
  if (value === null || typeof value !== 'object') return value;
  if (typeof value.base64 === 'string') return Uint8Array.from(atob(value.base64), letter => letter.charCodeAt(0));
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpacked(part)]));
};
const traits = unpacked(JSON.parse(document.getElementById('state').textContent)), listeners = {};
globalThis.saToolkit3Dmol = Promise.resolve(globalThis.$3Dmol);
globalThis.saToolkitModel = {
  get: name => traits[name],
  set(name, value) {
    if (JSON.stringify(traits[name]) === JSON.stringify(value)) return;
    traits[name] = value;
    for (const listener of listeners[`change:${name}`] ?? []) listener();
  },
  on: (event, listener) => (listeners[event] ??= []).push(listener),
  off: () => {},
  save_changes: () => {},
};
render({ model: globalThis.saToolkitModel, el: document.getElementById('view') });
