// A video with prediction and truth over it, and a scrubber.
"use strict";

const PREDICTED = [64, 140, 255, 120];
const TRUTH = "#22c55e";
const ANSWER = "#f59e0b";
const FRAMES_PER_SECOND = 8;
const LONGEST_SIDE = 640;

class Stage {
  // group and entry are of Run.kept; the answer's places are of the episode's line.
  constructor(run, group, entry, line) {
    this.run = run;
    this.group = group;
    this.width = group.width;
    this.height = group.height;
    if (!(this.width > 0 && this.height > 0)) throw new Error("the size of the video is missing");
    this.pictures = new Map(list(group.frames));
    this.truth = new Map(list(group.truth));
    this.masks = new Map(list(entry && entry.masks));
    this.places = list(line.places);
    this.keyframe = object(line.facts).frame;
    this.frames = this.allFrames();
    this.at = Math.max(0, this.frames.indexOf(this.keyframe));
    this.layers = { prediction: true, truth: true, answer: true };
    this.images = new Map();
    this.cache = new Map();
    this.view = null;
    this.canvas = dom.make("canvas", { class: "stage-canvas" });
    this.slider = dom.make("input", {
      type: "range",
      min: 0,
      max: Math.max(this.frames.length - 1, 0),
      "aria-label": "frame",
      oninput: () => this.go(Number(this.slider.value)),
    });
    this.button = dom.make("button", { title: "Play (space)", onclick: () => this.toggle() }, "▶");
    this.label = dom.make("span", { class: "faint" });
    this.element = this.build();
    this.go(this.at);
  }

  allFrames() {
    const frames = new Set([...this.pictures.keys(), ...this.truth.keys(), ...this.masks.keys()]);
    for (const place of this.places) {
      frames.add(place.frame);
    }
    return [...frames].sort((a, b) => a - b);
  }

  build() {
    const boxes = [];
    for (const [name, title] of [["prediction", "mask"], ["truth", "truth"], ["answer", "boxes"]]) {
      const box = dom.make("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        this.layers[name] = box.checked;
        this.draw();
      });
      boxes.push(dom.make("label", { class: `check key-${name}` }, box, title));
    }
    return dom.make(
      "div",
      { class: "stage" },
      this.canvas,
      dom.make("div", { class: "row" }, this.button, this.slider),
      dom.make("div", { class: "row wrap" }, this.label, dom.make("span", { class: "grow" }), ...boxes),
    );
  }

  go(place) {
    this.at = Math.min(Math.max(place, 0), Math.max(this.frames.length - 1, 0));
    this.view = null;
    this.slider.value = String(this.at);
    this.draw();
  }

  // Show a picture as the policy saw it, at its own proportions.
  show(view) {
    this.stop();
    const place = this.frames.indexOf(view.frame);
    if (place >= 0) {
      this.at = place;
      this.slider.value = String(place);
    }
    this.view = view;
    this.draw();
  }

  toggle() {
    if (this.timer) {
      this.stop();
      return;
    }
    this.button.textContent = "❚❚";
    this.timer = setInterval(() => this.go((this.at + 1) % this.frames.length), 1000 / FRAMES_PER_SECOND);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "▶";
  }

  draw() {
    const frame = this.view ? this.view.frame : this.frames[this.at];
    const height = this.view ? this.view.height : this.height;
    const width = this.view ? this.view.width : this.width;
    const scale = LONGEST_SIDE / Math.max(width, height, 1);
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const context = this.canvas.getContext("2d");
    const digest = this.view ? this.view.digest : this.pictures.get(frame);
    this.drawPicture(context, digest);
    context.save();
    context.scale(this.canvas.width / this.width, this.canvas.height / this.height);
    if (this.layers.prediction) this.drawMask(context, frame);
    if (this.layers.truth) this.drawTruth(context, frame);
    if (this.layers.answer) this.drawAnswer(context, frame);
    context.restore();
    const isKey = frame === this.keyframe ? ", keyframe" : "";
    const asSeen = this.view ? `, as seen: ${width} × ${height}` : "";
    this.label.textContent = `frame ${frame} of 0 to ${this.group.num_frames - 1}${isKey}${asSeen}`;
  }

  drawPicture(context, digest) {
    context.fillStyle = "#888";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!digest) {
      context.fillStyle = "#fff";
      context.font = "20px sans-serif";
      context.fillText("picture not kept", 16, 32);
      return;
    }
    const image = this.image(digest);
    if (image.complete && image.naturalWidth) {
      context.imageSmoothingEnabled = this.canvas.width / image.naturalWidth < 3;
      context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    }
  }

  image(digest) {
    if (!this.images.has(digest)) {
      const image = new Image();
      image.onload = () => this.draw();
      image.src = this.run.picture(digest);
      this.images.set(digest, image);
    }
    return this.images.get(digest);
  }

  cached(key, make) {
    if (!this.cache.has(key)) {
      this.cache.set(key, make());
    }
    return this.cache.get(key);
  }

  drawMask(context, frame) {
    const rle = this.masks.get(frame);
    if (rle) {
      const painted = this.cached(`mask ${frame}`, () => masks.painted(masks.decode(rle), PREDICTED));
      context.imageSmoothingEnabled = false;
      context.drawImage(painted, 0, 0, this.width, this.height);
    }
  }

  drawTruth(context, frame) {
    const rle = this.truth.get(frame);
    if (rle) {
      const path = this.cached(`truth ${frame}`, () => masks.outline(masks.decode(rle)));
      context.strokeStyle = TRUTH;
      context.lineWidth = this.line(2.5);
      context.stroke(path);
    }
  }

  drawAnswer(context, frame) {
    context.strokeStyle = ANSWER;
    context.fillStyle = ANSWER;
    context.lineWidth = this.line(3);
    for (const place of this.places) {
      if (place.frame !== frame) continue;
      if (place.box) {
        const [x0, y0, x1, y1] = place.box;
        context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      }
      list(place.points).forEach(([x, y], n) => this.drawPoint(context, x, y, list(place.labels)[n]));
    }
  }

  // A dot on the object, a cross off it.
  drawPoint(context, x, y, label) {
    const size = this.line(7);
    context.beginPath();
    if (label) {
      context.arc(x, y, size, 0, 2 * Math.PI);
      context.fill();
      return;
    }
    context.moveTo(x - size, y - size);
    context.lineTo(x + size, y + size);
    context.moveTo(x + size, y - size);
    context.lineTo(x - size, y + size);
    context.stroke();
  }

  // Return a width of the screen in pixels of the video.
  line(pixels) {
    return (pixels * this.width) / this.canvas.width;
  }
}
