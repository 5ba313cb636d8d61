// A page without Jupyter: the few parts of a Jupyter model that a view's `render` uses.
const whole = value => { // bytes were written as base64
  if (Array.isArray(value)) return value.map(whole);
  if (value === null || typeof value !== 'object') return value;
  if (typeof value.base64 === 'string') return Uint8Array.from(atob(value.base64), letter => letter.charCodeAt(0));
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, whole(part)]));
};
const model = whole(JSON.parse(document.getElementById('state').textContent));
const listeners = {};
globalThis.saToolkit3Dmol = Promise.resolve(globalThis.$3Dmol);
globalThis.saToolkitModel = {
  get: name => model[name],
  set(name, value) {
    model[name] = value;
    for (const listener of listeners[`change:${name}`] ?? []) listener();
  },
  on: (event, listener) => (listeners[event] ??= []).push(listener),
  off: () => {},
  save_changes: () => {},
};
render({ model: globalThis.saToolkitModel, el: document.getElementById('view') });
