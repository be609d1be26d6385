// Makes elements. Text enters the page here, by textContent alone.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. props: `class`, `on…` listeners, true or false attributes, any other attribute. */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** Make an element of a drawing. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  add(node, ...children);
  return node;
}

/** Append nodes and texts; what is null or false is left out. */
export function add(node, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

/** Replace what a node holds. */
export function put(node, ...children) {
  node.replaceChildren();
  return add(node, ...children);
}

/** Say something to those who hear the page. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}
