import { roundStep } from "./scale.js";

// A map of the slide: tissue, spots in colour over it, zoom and pan, and the spot under the pointer.

const MOST_ZOOM = 40;
const ABSENT = "rgb(108,114,122)";

/** Maps that show the same part of the slide share one view. */
export class View {
  /** @param {{x: number, y: number, width: number, height: number}} frame in level-0 pixels */
  constructor(frame) {
    this.frame = frame;
    this.maps = [];
    this.reset();
  }

  reset() {
    Object.assign(this, { zoom: 1, x: this.frame.x + this.frame.width / 2, y: this.frame.y + this.frame.height / 2 });
    this.changed();
  }

  /** Zoom by a factor, keeping the point (x, y) where it is. */
  zoomBy(factor, x = this.x, y = this.y) {
    const zoom = Math.min(Math.max(this.zoom * factor, 1), MOST_ZOOM);
    const kept = this.zoom / zoom;
    this.zoom = zoom;
    this.moveTo(x + (this.x - x) * kept, y + (this.y - y) * kept);
  }

  /** Centre on (x, y), as far as the frame reaches. */
  moveTo(x, y) {
    const keep = (value, start, size) => {
      const half = size / 2 / this.zoom;
      return Math.min(Math.max(value, start + half), start + size - half);
    };
    this.x = keep(x, this.frame.x, this.frame.width);
    this.y = keep(y, this.frame.y, this.frame.height);
    this.changed();
  }

  changed() {
    for (const map of this.maps) map.draw();
  }
}

export class SlideMap {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {object} scene picture, x and y [spot] in level-0 pixels, radius, square, umPerPx
   * @param {View} view
   * @param {(spot: number, announce: boolean) => void} onSpot told the spot under the pointer; -1 where there is none
   */
  constructor(canvas, scene, view, onSpot) {
    Object.assign(this, { canvas, scene, view, onSpot, levels: null, palette: [], opacity: 1, spot: -1 });
    view.maps.push(this);
    this.pointers = new Map();
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointermove", (event) => this.pointed(event));
    canvas.addEventListener("pointerdown", (event) => this.pressed(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("pointerleave", () => this.pointers.size || onSpot(-1, false));
    canvas.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.typed(event));
    canvas.addEventListener("dblclick", (event) => view.zoomBy(2, ...this.slidePoint(event)));
  }

  /** Show levels [spot] of a palette, -1 being a spot without a number. */
  show(levels, palette, opacity) {
    Object.assign(this, { levels, palette, opacity });
    this.draw();
  }

  /** CSS pixels per level-0 pixel. */
  get scale() {
    const { width, height } = this.view.frame;
    return this.view.zoom * Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height);
  }

  draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height || !this.levels) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.style.touchAction = this.view.zoom > 1 ? "none" : "pan-y";
    this.paint(canvas.getContext("2d"), width, height, this.scale * ratio, ratio);
  }

  /** Draw onto any context; `scale` is its pixels per level-0 pixel. */
  paint(context, width, height, scale, ratio) {
    const { view, scene } = this;
    const [left, top] = [width / 2 - view.x * scale, height / 2 - view.y * scale];
    context.globalAlpha = 1;
    context.fillStyle = "rgb(245,245,245)";
    context.fillRect(0, 0, width, height);
    const { frame } = view;
    context.drawImage(
      scene.picture, left + frame.x * scale, top + frame.y * scale, frame.width * scale, frame.height * scale,
    );
    context.globalAlpha = this.opacity;
    this.paintSpots(context, { left, top, scale, width, height });
    context.globalAlpha = 1;
    if (this.spot >= 0) this.outline(context, left, top, scale, ratio);
    this.paintScaleBar(context, height, scale, ratio);
  }

  paintSpots(context, { left, top, scale, width, height }) {
    const { x, y, radius, square } = this.scene;
    const reach = Math.max(radius * scale, 0.75);
    for (let spot = 0; spot < x.length; spot++) {
      const [across, down] = [left + x[spot] * scale, top + y[spot] * scale];
      if (across < -reach || down < -reach || across > width + reach || down > height + reach) continue;
      context.fillStyle = this.levels[spot] < 0 ? ABSENT : this.palette[this.levels[spot]];
      if (square) {
        // On whole pixels, so that neighbours meet without a seam.
        const [start, above] = [Math.round(across - reach), Math.round(down - reach)];
        context.fillRect(start, above, Math.round(across + reach) - start, Math.round(down + reach) - above);
      } else {
        context.beginPath();
        context.arc(across, down, reach, 0, 2 * Math.PI);
        context.fill();
      }
    }
  }

  outline(context, left, top, scale, ratio) {
    const { x, y, radius, square } = this.scene;
    const [across, down, reach] = [left + x[this.spot] * scale, top + y[this.spot] * scale, radius * scale + ratio];
    for (const [colour, line] of [["#fff", 4], ["#18212b", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = line * ratio;
      context.beginPath();
      if (square) context.rect(across - reach, down - reach, 2 * reach, 2 * reach);
      else context.arc(across, down, reach, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  paintScaleBar(context, height, scale, ratio) {
    const lengthUm = roundStep((90 * ratio * this.scene.umPerPx) / scale);
    const length = (lengthUm / this.scene.umPerPx) * scale;
    const label = lengthUm >= 1000 ? `${lengthUm / 1000}\u202fmm` : `${lengthUm}\u202f\u00b5m`;
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.fillStyle = "rgba(255,255,255,.8)";
    const width = Math.max(length, context.measureText(label).width);
    context.fillRect(8 * ratio, height - 32 * ratio, width + 10 * ratio, 25 * ratio);
    context.fillStyle = "#18212b";
    context.fillText(label, 13 * ratio, height - 18 * ratio);
    context.fillRect(13 * ratio, height - 13 * ratio, length, 2 * ratio);
  }

  /** Where on the slide an event is, in level-0 pixels. @returns {[number, number]} */
  slidePoint(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      this.view.x + (event.clientX - box.left - box.width / 2) / this.scale,
      this.view.y + (event.clientY - box.top - box.height / 2) / this.scale,
    ];
  }

  /** The spot that covers a point, or -1. */
  spotAt(pointX, pointY) {
    const { x, y, radius, square } = this.scene;
    let [nearest, least] = [-1, Math.max(radius, 4 / this.scale)];
    for (let spot = 0; spot < x.length; spot++) {
      const [across, down] = [Math.abs(x[spot] - pointX), Math.abs(y[spot] - pointY)];
      const distance = square ? Math.max(across, down) : Math.hypot(across, down);
      if (distance <= least) [nearest, least] = [spot, distance];
    }
    return nearest;
  }

  pressed(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.onSpot(this.spotAt(...this.slidePoint(event)), false);
  }

  pointed(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.onSpot(this.spotAt(...this.slidePoint(event)), false);
      return;
    }
    const others = [...this.pointers.values()].filter((other) => other.pointerId !== event.pointerId);
    if (others.length) {
      const gap = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
      this.view.zoomBy(gap(event) / Math.max(gap(before), 1), ...this.slidePoint(others[0]));
    } else {
      const [right, down] = [event.clientX - before.clientX, event.clientY - before.clientY];
      this.view.moveTo(this.view.x - right / this.scale, this.view.y - down / this.scale);
    }
    this.pointers.set(event.pointerId, event);
  }

  /** The wheel scrolls the page unless the map was clicked or Ctrl is held. */
  wheeled(event) {
    if (!event.ctrlKey && document.activeElement !== this.canvas) return;
    event.preventDefault();
    this.view.zoomBy(Math.exp(-event.deltaY * 0.002), ...this.slidePoint(event));
  }

  typed(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (step && event.shiftKey) this.view.moveTo(...this.along(step, this.view.frame.width / 8 / this.view.zoom));
    else if (step) this.step(step);
    else if (event.key === "+" || event.key === "=") this.view.zoomBy(1.5);
    else if (event.key === "-") this.view.zoomBy(1 / 1.5);
    else if (event.key === "0") this.view.reset();
    else return;
    event.preventDefault();
  }

  along([right, down], distance) {
    return [this.view.x + right * distance, this.view.y + down * distance];
  }

  /** Go to the nearest spot in a direction; to the one in the middle where none was chosen. */
  step([right, down]) {
    const { x, y } = this.scene;
    const from = this.spot >= 0 ? [x[this.spot], y[this.spot]] : [this.view.x, this.view.y];
    let [next, least] = [this.spot, Infinity];
    for (let spot = 0; spot < x.length; spot++) {
      const [across, along] = [x[spot] - from[0], y[spot] - from[1]];
      const ahead = right * across + down * along;
      const aside = Math.abs(down * across) + Math.abs(right * along);
      if (this.spot >= 0 && (ahead <= 0.01 || aside > ahead)) continue;
      const cost = this.spot >= 0 ? ahead + 2 * aside : Math.hypot(across, along);
      if (cost < least) [next, least] = [spot, cost];
    }
    this.onSpot(next, true);
    if (this.view.zoom > 1 && next >= 0) this.view.moveTo(x[next], y[next]);
  }
}
