// Elements and formats. Text of models only ever becomes a text node.
"use strict";

const dom = {
  byId(id) {
    return document.getElementById(id);
  },

  // Make an element: dom.make("div", { class: "chip", title: "..." }, "text", child, ...).
  make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) {
        element.addEventListener(name.slice(2), value);
      } else if (value !== undefined && value !== null && value !== false) {
        element.setAttribute(name, value === true ? "" : String(value));
      }
    }
    for (const child of children) {
      if (child !== null && child !== undefined) {
        element.append(child instanceof Node ? child : readable(String(child)));
      }
    }
    return element;
  },

  svg(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      element.setAttribute(name, String(value));
    }
    element.append(...children);
    return element;
  },

  chip(text, kind) {
    return dom.make("span", { class: `chip ${kind || ""}` }, text);
  },

  // A part of the page that may fail alone: one odd episode never takes the page with it.
  guarded(name, build) {
    try {
      return build();
    } catch (error) {
      return dom.make("p", { class: "note" }, `${name} cannot be shown: ${error.message}`);
    }
  },
};

// Characters that nobody sees but that change how others look: control characters, marks of the
// writing direction, separators, halves of surrogate pairs.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb]|\p{Cs}/gu;

// Return a text with these written out.
function readable(text) {
  return text.replace(UNSEEN, (found) => `⟨U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

function fixed(value, digits = 2) {
  return typeof value === "number" ? value.toFixed(digits) : "–";
}

function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function list(value) {
  return Array.isArray(value) ? value : [];
}

function object(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
}
