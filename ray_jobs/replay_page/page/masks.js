// Masks: COCO's compressed run lengths, column by column, to pixels and to outlines.
"use strict";

const masks = {
  // Return { width, height, pixels } with a byte for each pixel, row by row.
  decode(rle) {
    const [height, width] = rle.size;
    const counts = masks.counts(rle.counts);
    const pixels = new Uint8Array(width * height);
    let at = 0;
    let on = 0;
    for (const count of counts) {
      if (on) {
        for (let n = at; n < Math.min(at + count, pixels.length); n++) {
          pixels[(n % height) * width + Math.floor(n / height)] = 1;
        }
      }
      at += count;
      on = 1 - on;
    }
    return { width, height, pixels };
  },

  // Each number is written in digits of five bits, from the third on as the difference to the one
  // two places before.
  counts(text) {
    const counts = [];
    let at = 0;
    while (at < text.length) {
      let number = 0;
      let digits = 0;
      let code = 0;
      do {
        code = text.charCodeAt(at++) - 48;
        number += (code & 31) * 32 ** digits++;
      } while (code & 32);
      if (code & 16) {
        number -= 32 ** digits;
      }
      if (counts.length > 2) {
        number += counts[counts.length - 2];
      }
      counts.push(number);
    }
    return counts;
  },

  // Return a canvas of the mask in one colour, [red, green, blue, alpha].
  painted(mask, colour) {
    const canvas = document.createElement("canvas");
    canvas.width = mask.width;
    canvas.height = mask.height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(mask.width, mask.height);
    for (let n = 0; n < mask.pixels.length; n++) {
      if (mask.pixels[n]) {
        image.data.set(colour, 4 * n);
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  },

  // Return the border between pixels on and off as a path, in pixels of the mask.
  outline(mask) {
    const { width, height, pixels } = mask;
    const path = new Path2D();
    const on = (x, y) => x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x];
    for (let y = 0; y <= height; y++) {
      for (let x = 0; x <= width; x++) {
        const here = on(x, y) ? 1 : 0;
        if (here !== (on(x - 1, y) ? 1 : 0)) {
          path.moveTo(x, y);
          path.lineTo(x, y + 1);
        }
        if (here !== (on(x, y - 1) ? 1 : 0)) {
          path.moveTo(x, y);
          path.lineTo(x + 1, y);
        }
      }
    }
    return path;
  },
};
