// All that moves in the report: flicker, j / k between scans, and the cohort's table with its strips of points.
(() => {
  "use strict";

  // Flicker: two pictures on one place. The keys act on the group last used, or else on the first in view.
  const groups = [...document.querySelectorAll(".flicker-group")];
  let lastUsed = null;
  const flicker = (group, action) => {
    lastUsed = group;
    const stage = group.querySelector(".flicker");
    const [play, swap] = ["play", "swap"].map(name => group.querySelector(`[data-flicker=${name}]`));
    if (action === "play") {
      stage.classList.remove("after");
      stage.classList.toggle("playing");
    } else {
      stage.classList.remove("playing");
      stage.classList.toggle("after");
    }
    play.setAttribute("aria-pressed", stage.classList.contains("playing"));
    swap.setAttribute("aria-pressed", stage.classList.contains("after"));
  };
  for (const group of groups)
    for (const button of group.querySelectorAll("[data-flicker]"))
      button.addEventListener("click", () => flicker(group, button.dataset.flicker));
  const inView = group => {
    const box = group.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  };
  addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const follow = { j: "next", k: "prev" }[event.key];
    if (follow) document.querySelector(`a[rel=${follow}]`)?.click();
    const action = { f: "play", x: "swap" }[event.key];
    const group = lastUsed && inView(lastUsed) ? lastUsed : groups.find(inView);
    if (action && group) flicker(group, action);
  });

  // The cohort: rows come as JSON and are drawn a page at a time, so that 10,000 scans stay quick.
  const source = document.getElementById("scans-data");
  if (!source) return;
  const { columns, strips, rows } = JSON.parse(source.textContent);
  const at = Object.fromEntries(columns.map((column, index) => [column.key, index]));
  const table = document.getElementById("scans-table");
  const body = table.tBodies[0];
  const count = document.getElementById("scans-count");
  const [search, statusFilter, splitFilter] =
    ["search", "status", "split"].map(id => document.getElementById(`scans-${id}`));
  const [back, forth] = ["back", "forth"].map(id => document.getElementById(`scans-${id}`));
  const SIZE = 50;
  const SHAPES = JSON.parse(document.getElementById("status-shapes").textContent);
  let order = { index: 0, down: false };
  let shown = rows;
  let first = 0;

  const address = row => `scans/${encodeURIComponent(row[at.scan])}.html`;
  const text = (value, column) => {
    if (value === null) return "–";
    return column.number && typeof value === "number" ? String(Number(value.toPrecision(4))) : value;
  };
  const compare = (a, b) => {
    const [x, y] = [a[order.index], b[order.index]];
    if (x === null || y === null) return (x === null) - (y === null);
    const side = typeof x === "number" && typeof y === "number"
      ? x - y
      : String(x).localeCompare(String(y), undefined, { numeric: true });
    return order.down ? -side : side;
  };
  const draw = () => {
    body.replaceChildren(...shown.slice(first, first + SIZE).map(row => {
      const line = document.createElement("tr");
      columns.forEach((column, index) => {
        const cell = document.createElement(index === at.scan ? "th" : "td");
        if (index === at.scan) {
          const link = document.createElement("a");
          link.href = address(row);
          link.textContent = row[index];
          cell.scope = "row";
          cell.append(link);
        } else if (index === at.qc_status) {
          cell.innerHTML = SHAPES[row[index]] || SHAPES.none;
        } else {
          cell.textContent = text(row[index], column);
          if (column.number) cell.className = "number";
        }
        line.append(cell);
      });
      return line;
    }));
    const last = Math.min(first + SIZE, shown.length);
    const inAll = shown.length < rows.length ? ` (${rows.length} in all)` : "";
    count.textContent = shown.length ? `${first + 1}–${last} of ${shown.length}${inAll}` : "no scan matches";
    back.disabled = first === 0;
    forth.disabled = last >= shown.length;
  };
  const refresh = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = rows.filter(row =>
      (!statusFilter.value || row[at.qc_status] === statusFilter.value) &&
      (!splitFilter.value || row[at.split] === splitFilter.value) &&
      words.every(word => row.some(value => value !== null && String(value).toLowerCase().includes(word))));
    shown.sort(compare);
    first = 0;
    draw();
    paint();
  };
  search.addEventListener("input", refresh);
  for (const filter of [statusFilter, splitFilter]) filter.addEventListener("change", refresh);
  back.addEventListener("click", () => { first = Math.max(first - SIZE, 0); draw(); });
  forth.addEventListener("click", () => { first += SIZE; draw(); });
  table.tHead.querySelectorAll("button").forEach((button, index) => button.addEventListener("click", () => {
    order = { index, down: order.index === index && !order.down };
    for (const head of table.tHead.querySelectorAll("th")) head.removeAttribute("aria-sort");
    button.parentElement.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    refresh();
  }));

  // Strips: one a metric, one point a scan. Pointing at a scan marks it on every strip; a click opens its page.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const canvases = strips.map(strip => {
    const canvas = document.querySelector(`canvas[data-metric="${CSS.escape(strip.key)}"]`);
    const values = rows.map(row => row[at[strip.key]]).filter(value => value !== null);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = [low - 1, high + 1];
    return { canvas, strip, low, high };
  });
  const MARGIN = 10;
  const place = (item, row, index, width, height) => {
    const value = row[at[item.strip.key]];
    if (value === null) return null;
    const jitter = ((index * 0.6180339887) % 1) - 0.5;  // golden-ratio steps: even and the same at every visit
    const share = (value - item.low) / (item.high - item.low);
    return [MARGIN + (width - 2 * MARGIN) * share, (height - 12) / 2 + jitter * (height - 24)];
  };
  const mark = (pen, status, x, y, size) => {
    pen.beginPath();
    if (status === "fail") {
      pen.moveTo(x - size, y - size); pen.lineTo(x + size, y + size);
      pen.moveTo(x - size, y + size); pen.lineTo(x + size, y - size);
      pen.lineWidth = 2; pen.stroke();
      return;
    }
    if (status === "warn") {
      pen.moveTo(x, y - size * 1.2);
      pen.lineTo(x + size * 1.1, y + size);
      pen.lineTo(x - size * 1.1, y + size);
    } else {
      pen.arc(x, y, size, 0, 7);
    }
    pen.fill();
  };
  let marked = -1;
  const paint = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = Object.fromEntries(["pass", "warn", "fail", "none", "muted", "rule", "ink"]
      .map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
    const visible = new Set(shown);
    for (const item of canvases) {
      const { canvas } = item;
      const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      pen.font = "10px system-ui, sans-serif";
      pen.fillStyle = colour.muted;
      pen.textBaseline = "bottom";
      pen.textAlign = "left";
      pen.fillText(String(Number(item.low.toPrecision(3))), MARGIN - 4, height);
      pen.textAlign = "right";
      pen.fillText(String(Number(item.high.toPrecision(3))), width - MARGIN + 4, height);
      rows.forEach((row, index) => {
        const point = place(item, row, index, width, height);
        if (!point) return;
        const status = row[at.qc_status] || "none";
        pen.globalAlpha = visible.has(row) ? (rows.length > 500 ? 0.45 : 0.75) : 0.08;
        pen.fillStyle = pen.strokeStyle = colour[status] || colour.none;
        mark(pen, status, ...point, rows.length > 2000 ? 2 : 3.2);
      });
      pen.globalAlpha = 1;
      const point = marked >= 0 && place(item, rows[marked], marked, width, height);
      if (point) {
        pen.strokeStyle = colour.ink;
        pen.lineWidth = 1.5;
        pen.beginPath();
        pen.arc(...point, 6, 0, 7);
        pen.stroke();
      }
    }
  };
  const nearest = (item, event) => {
    const box = item.canvas.getBoundingClientRect();
    let best = -1, least = 144;
    const visible = new Set(shown);
    rows.forEach((row, index) => {
      const point = visible.has(row) && place(item, row, index, box.width, box.height);
      if (!point) return;
      const distance = (point[0] - event.clientX + box.left) ** 2 + (point[1] - event.clientY + box.top) ** 2;
      if (distance < least) [best, least] = [index, distance];
    });
    return best;
  };
  for (const item of canvases) {
    item.canvas.addEventListener("mousemove", event => {
      const found = nearest(item, event);
      tip.hidden = found < 0;
      if (found >= 0) {
        const row = rows[found];
        tip.textContent = `${row[at.scan]}: ${text(row[at[item.strip.key]], { number: true })}`;
        tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
        tip.style.top = `${event.clientY + 14}px`;
      }
      if (found !== marked) { marked = found; paint(); }
    });
    item.canvas.addEventListener("mouseleave", () => { tip.hidden = true; marked = -1; paint(); });
    item.canvas.addEventListener("click", event => {
      const found = nearest(item, event);
      if (found >= 0) location.href = address(rows[found]);
    });
  }
  addEventListener("resize", paint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  refresh();
})();
