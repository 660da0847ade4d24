// All that moves in the report: keys, flicker, ratings, the cohort's table with its strips, and the slice viewer.
(() => {
  "use strict";

  const find = (query, within = document) => within.querySelector(query);
  const all = (query, within = document) => [...within.querySelectorAll(query)];
  const data = id => JSON.parse(document.getElementById(id)?.textContent ?? "null");
  const study = data("study-data");

  // What is kept in the browser belongs to the cohort. Where the browser keeps nothing, the report works without.
  const kept = name => `brainscm:${study.key}:${name}`;
  const recall = (name, otherwise) => {
    try { return JSON.parse(localStorage.getItem(kept(name))) ?? otherwise; } catch { return otherwise; }
  };
  const keep = (name, value) => {
    try { localStorage.setItem(kept(name), JSON.stringify(value)); return true; } catch { return false; }
  };

  // The state of a page lives behind the # of its address, so that "back" and a colleague's link find it again.
  const state = new URLSearchParams(location.hash.slice(1));
  const remember = changes => {
    for (const [key, value] of Object.entries(changes)) value ? state.set(key, value) : state.delete(key);
    history.replaceState(null, "", `#${state}`);
  };

  // Keys: letters typed into a field are no keys.
  const keys = {};
  const isTyped = element => element.closest("textarea, select, input:not([type=checkbox]):not([type=range])") !== null;
  addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyped(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const action = keys[event.key];
    if (action && action(event) !== false) event.preventDefault();
  });
  const help = document.getElementById("keys");
  if (help) {
    const toggle = () => help.open ? help.close() : help.showModal();
    keys["?"] = toggle;
    for (const button of all("[data-keys]")) button.addEventListener("click", toggle);
  }

  // A picture that a page shows several times is in it once.
  for (const image of all("img[data-same]")) image.src = document.getElementById(image.dataset.same).src;

  // What scrolls sideways can be reached by keyboard; what does not scroll is no stop on the way.
  const scrolling = all(".scroll, .picture, .rows, pre");
  const setStops = () => {
    for (const area of scrolling)
      area.scrollWidth > area.clientWidth + 1 ? area.tabIndex = 0 : area.removeAttribute("tabindex");
  };
  addEventListener("resize", setStops);
  addEventListener("load", setStops);
  addEventListener("toggle", setStops, true);

  // On paper nothing is folded away.
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = all("details:not([open]):not(.tool)");
    for (const each of unfolded) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of unfolded) each.open = false; });

  // Text to take along. Where the browser gives no clipboard to a page of the disk, it is marked to be copied by hand.
  for (const button of all("[data-copy]"))
    button.addEventListener("click", async () => {
      const source = find(button.dataset.copy), told = find("[data-copied]");
      try {
        await navigator.clipboard.writeText(source.textContent);
        told.textContent = "copied";
      } catch {
        const folded = source.closest("details");
        if (folded) folded.open = true;
        getSelection().selectAllChildren(source);
        told.textContent = "marked: copy it with the keyboard";
      }
    });

  // Flicker: two pictures on one place. The keys act on the group last used, or else on the first in view.
  const groups = all(".flicker-group");
  let lastUsed = null;
  const flicker = (group, action) => {
    lastUsed = group;
    const stage = find(".flicker", group);
    const [play, swap] = ["play", "swap"].map(name => find(`[data-flicker=${name}]`, group));
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
  for (const group of groups) {
    for (const button of all("[data-flicker]", group))
      button.addEventListener("click", () => flicker(group, button.dataset.flicker));
    find(".flicker", group).addEventListener("click", () => flicker(group, "swap"));
  }
  const inView = group => {
    const box = group.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  };
  for (const [key, action] of [["f", "play"], ["x", "swap"]])
    keys[key] = () => {
      const group = lastUsed && inView(lastUsed) ? lastUsed : groups.find(inView);
      if (group) flicker(group, action);
    };

  // Differences: on the scale of all queries, or each on that of its own query.
  const scales = all("[data-scale]");
  for (const button of scales)
    button.addEventListener("click", () => {
      const own = document.body.classList.toggle("own-scale");
      for (const each of scales) each.setAttribute("aria-pressed", own);
    });

  // Ratings: what a rater says of a scan, by scan. They leave the browser as ratings.tsv (cohort: {exclude: ratings.tsv}).
  const COLUMNS = ["scan", "rating", "excluded_from", "artefacts", "note", "rater", "rated_at"];
  const oneLine = text => String(text ?? "").replace(/\s+/g, " ").trim();
  const ratings = () => recall("ratings", {});
  const rate = (scan, changes) => {
    const every = ratings();
    const now = { ...every[scan], ...changes, rater: recall("rater", ""), rated_at: new Date().toISOString().slice(0, 19) };
    if (now.rating || now.artefacts?.length || now.note) every[scan] = now; else delete every[scan];
    return keep("ratings", every);
  };
  const asTable = every => [COLUMNS, ...Object.entries(every).sort(([a], [b]) => a < b ? -1 : 1).map(([scan, said]) => [
    scan, said.rating, said.rating === "exclude" ? said.excluded_from ?? "everything" : "",
    (said.artefacts ?? []).join(", "), said.note, said.rater, said.rated_at,
  ])].map(row => row.map(oneLine).join("\t")).join("\n") + "\n";
  const fromTable = text => {
    const [head, ...rows] = text.split(/\r?\n/).filter(Boolean).map(line => line.split("\t"));
    if (!head?.includes("scan") || !head.includes("rating")) return null;
    return Object.fromEntries(rows.map(cells => {
      const said = Object.fromEntries(head.map((column, at) => [column, cells[at] ?? ""]));
      return [said.scan, { ...said, artefacts: said.artefacts ? said.artefacts.split(", ") : [] }];
    }));
  };
  for (const button of all("[data-ratings=save]"))
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([asTable(ratings())], { type: "text/tab-separated-values" }));
      link.download = "ratings.tsv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  const rater = find("[data-rating=rater]");
  if (rater) {
    rater.value = recall("rater", "");
    rater.addEventListener("change", () => keep("rater", oneLine(rater.value)));
  }

  const panel = find("[data-rates]");
  if (panel) {
    const scan = panel.dataset.rates;
    const [from, note, told] = ["from", "note", "told"].map(name => find(`[data-rating=${name}]`, panel));
    const choices = all("[data-rate]", panel);
    const artefacts = all("[data-artefact]", panel);
    const show = () => {
      const said = ratings()[scan] ?? {};
      for (const each of choices) each.setAttribute("aria-pressed", said.rating === each.dataset.rate);
      for (const each of artefacts) each.checked = (said.artefacts ?? []).includes(each.value);
      from.value = said.excluded_from || "everything";
      from.closest("label").hidden = said.rating !== "exclude";
      note.value = said.note ?? "";
      told.textContent = `${Object.values(ratings()).filter(each => each.rating).length} scans rated`;
    };
    const change = changes => {
      const isKept = rate(scan, changes);
      show();
      if (!isKept) told.textContent = "this browser keeps nothing for this page: save ratings.tsv before you leave it";
    };
    const choose = rating => change({ rating: ratings()[scan]?.rating === rating ? "" : rating });
    for (const each of choices) {
      each.addEventListener("click", () => choose(each.dataset.rate));
      keys[find("kbd", each).textContent] = () => choose(each.dataset.rate);
    }
    const said = () => change({ artefacts: artefacts.filter(each => each.checked).map(each => each.value) });
    artefacts.forEach((each, at) => {
      each.addEventListener("change", said);
      keys[String(at + 1)] = () => { each.checked = !each.checked; said(); };
    });
    from.addEventListener("change", () => change({ excluded_from: from.value }));
    note.addEventListener("change", () => change({ note: oneLine(note.value) }));
    keys.n = () => note.focus();
    show();

    // The neighbours are those of the table as it was last sorted and filtered; of the worst first, if there was none.
    const list = recall("list", { scans: [] });
    const at = list.scans.indexOf(scan);
    if (at >= 0) {
      const place = (rel, name) => {
        const link = find(`a[rel=${rel}]`);
        link.hidden = find(`[data-key=${rel}]`).hidden = !name;
        if (name) {
          link.href = `${encodeURIComponent(name)}.html`;
          find("span", link).textContent = name;
        }
      };
      place("prev", list.scans[at - 1]);
      place("next", list.scans[at + 1]);
      find("[data-all]").href += list.state ? `#${list.state}` : "";
      find("[data-place]").textContent = `${at + 1} of ${list.scans.length}`;
    }
  }
  const follow = rel => () => find(`a[rel=${rel}]:not([hidden])`)?.click();
  keys.j = follow("next");
  keys.k = follow("prev");
  keys.a = () => find("[data-all]")?.click();

  // A trajectory: one member at a time by a slider, or all at once (as they are on paper).
  for (const controls of all("[data-slides]")) {
    const slides = all("[data-slide]", controls.closest("figure"));
    const [slider, told, together] = ["input", "strong", "button"].map(query => find(query, controls));
    const show = () => {
      const every = together.getAttribute("aria-pressed") === "true";
      // Each member is two cells: its name and its picture.
      slides.forEach((cell, at) => cell.classList.toggle("off", !every && at >> 1 !== Number(slider.value)));
      told.textContent = [...slides[2 * slider.value].childNodes].map(part => part.textContent.trim()).join(": ");
      slider.setAttribute("aria-valuetext", told.textContent);
    };
    slider.addEventListener("input", () => { together.setAttribute("aria-pressed", false); show(); });
    together.addEventListener("click", () => {
      together.setAttribute("aria-pressed", together.getAttribute("aria-pressed") !== "true");
      show();
    });
    slider.value = slider.max;
    controls.hidden = false;
    show();
  }

  // Arrows from participants to counterfactuals: those of one question at a time.
  const arrows = document.getElementById("arrows");
  const point = () => { for (const group of all("[data-query]")) group.toggleAttribute("hidden", group.dataset.query !== arrows.value); };
  arrows?.addEventListener("change", point);

  cohort();
  const viewers = all(".viewer").map(viewer);
  keys.v = () => viewers.find(({ root }) => inView(root))?.flip();

  // The slice viewer: each layer is one picture of all its slices, read once into a volume of bytes.
  function viewer(root) {
    const source = JSON.parse(find("script", root).textContent);
    const [over, under, opacity, threshold, below, swap, where, value, about] = [
      "[data-layer=over]", "[data-layer=under]", "[data-opacity]", "[data-threshold]", "[data-below]", "[data-swap]",
      "[data-where]", "[data-value]", "[data-about]",
    ].map(query => find(query, root));
    // In the address: of a page's only viewer by the plain names, of several by each one's own.
    const key = name => all(".viewer").length > 1 ? `${name}.${source.name}` : name;
    const [nx, ny, nz] = source.shape;
    const layers = Object.fromEntries(source.layers.map(layer => [layer.name, layer]));
    const volume = layer => layer.volume ??= (async () => {
      const image = new Image();
      image.src = layer.source;
      await image.decode();
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.width, image.height];
      const pen = canvas.getContext("2d");
      pen.drawImage(image, 0, 0);
      const pixels = pen.getImageData(0, 0, image.width, image.height).data;
      const bytes = new Uint8Array(nx * ny * nz);
      for (let z = 0, at = 0; z < nz; z++) {
        const [left, top] = [z % source.columns * nx, Math.floor(z / source.columns) * ny];
        for (let y = 0; y < ny; y++)
          for (let x = 0; x < nx; x++) bytes[at++] = pixels[4 * ((top + y) * image.width + left + x)];
      }
      return bytes;
    })();

    // A plane shows axis `across` to the right and axis `up` upwards; `through` is the axis of its slider.
    const planes = [
      { name: "axial", across: 0, up: 1, through: 2 },
      { name: "coronal", across: 0, up: 2, through: 1 },
      { name: "sagittal", across: 1, up: 2, through: 0 },
    ];
    const given = (state.get(key("at")) ?? "").split(",").map(Number);
    let place = given.length === 3 && given.every(Number.isInteger) ? given : source.shape.map(size => size >> 1);
    let swapped = false;
    const names = source.layers.map(layer => layer.name);
    for (const [field, fallback] of [[over, source.over], [under, source.under]]) {
      field.replaceChildren(...names.map(name => new Option(name)));
      const asked = state.get(key(field.dataset.layer));
      field.value = names.includes(asked) ? asked : fallback;
    }
    // What a byte of a layer stands for, and how much of the scale that is.
    const numberOf = (layer, byte) => layer.kind === "signed" ? (byte / 127.5 - 1) * layer.limit : byte / 255 * layer.limit;
    const isHidden = (layer, byte) => layer.kind !== "grey" && Math.abs(numberOf(layer, byte)) < threshold.value / 10 * layer.limit;
    const drawLayer = (image, plane, layer, bytes, alpha) => {
      const strides = [1, nx, nx * ny];
      const [width, height] = [source.shape[plane.across], source.shape[plane.up]];
      const start = place[plane.through] * strides[plane.through];
      const table = source.colours[layer.kind];
      for (let row = 0, at = 0; row < height; row++)
        for (let column = 0; column < width; column++, at += 4) {
          const byte = bytes[start + column * strides[plane.across] + (height - 1 - row) * strides[plane.up]];
          if (alpha < 2 && isHidden(layer, byte)) continue;
          const colour = table ? table[byte] : [byte, byte, byte];
          // No change lets the scan through, a large one covers it.
          const share = table && alpha < 2 ? alpha * Math.min(1, (colour[0] + colour[1] + colour[2]) / 160) : alpha;
          for (let part = 0; part < 3; part++)
            image.data[at + part] = image.data[at + part] * (1 - Math.min(share, 1)) + colour[part] * Math.min(share, 1);
          image.data[at + 3] = 255;
        }
    };
    const draw = async () => {
      const [top, bottom] = [layers[over.value], layers[under.value]];
      const [topBytes, bottomBytes] = await Promise.all([volume(top), volume(bottom)]);
      for (const plane of planes) {
        const pen = plane.canvas.getContext("2d");
        const image = pen.createImageData(plane.canvas.width, plane.canvas.height);
        drawLayer(image, plane, bottom, bottomBytes, 2);
        if (!swapped && top !== bottom) drawLayer(image, plane, top, topBytes, opacity.value / 100);
        pen.putImageData(image, 0, 0);
        plane.slider.value = place[plane.through];
        plane.slider.setAttribute("aria-valuetext", `slice ${place[plane.through] + 1}`);
        plane.cross.style.left = `${100 * (place[plane.across] + 0.5) / source.shape[plane.across]}%`;
        plane.cross.style.top = `${100 * (1 - (place[plane.up] + 0.5) / source.shape[plane.up])}%`;
      }
      const mm = place.map((voxel, axis) => Math.round(source.origin_mm[axis] + voxel * source.voxel_mm[axis]));
      where.textContent = `x ${mm[0]}, y ${mm[1]}, z ${mm[2]} mm`.replace(/-/g, "−");
      const number = numberOf(top, topBytes[place[0] + nx * (place[1] + ny * place[2])]);
      value.textContent = `${top.name}: ${number.toFixed(2).replace("-", "−")}`;
      below.textContent = top.kind === "grey" ? "" : Number((threshold.value / 10 * top.limit).toPrecision(2));
      about.hidden = !top.about;
      about.textContent = top.about;
      about.classList.toggle("pass", top.about === "supported");
      about.classList.toggle("fail", top.about.startsWith("extrapolation"));
    };
    const move = (axis, to) => {
      place[axis] = Math.min(Math.max(Math.round(to), 0), source.shape[axis] - 1);
      remember({ [key("at")]: place.join(",") });
      draw();
    };
    for (const plane of planes) {
      const frame = document.createElement("div");
      frame.style.flex = `${source.shape[plane.across]} 1 0`;
      frame.innerHTML = `<div class="plane"><canvas tabindex="0" role="img" aria-label="${plane.name} slice"></canvas><i></i>
        ${plane.name === "sagittal" ? "<b>P</b><b>A</b>" : "<b>L</b><b>R</b>"}</div>
        <label>${plane.name} <input type="range" min="0" max="${source.shape[plane.through] - 1}" autocomplete="off"></label>`;
      [plane.canvas, plane.cross, plane.slider] = ["canvas", "i", "input"].map(name => find(name, frame));
      [plane.canvas.width, plane.canvas.height] = [source.shape[plane.across], source.shape[plane.up]];
      plane.slider.addEventListener("input", () => move(plane.through, plane.slider.value));
      plane.canvas.addEventListener("wheel", event => {
        event.preventDefault();
        move(plane.through, place[plane.through] - Math.sign(event.deltaY));
      }, { passive: false });
      plane.canvas.addEventListener("click", event => {
        const box = plane.canvas.getBoundingClientRect();
        const [x, y] = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
        place[plane.across] = Math.min(Math.max(Math.floor(x * source.shape[plane.across]), 0), source.shape[plane.across] - 1);
        move(plane.up, Math.floor(y * source.shape[plane.up]));
      });
      plane.canvas.addEventListener("keydown", event => {
        const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        move(plane.through, place[plane.through] + step);
      });
      find(".planes", root).append(frame);
    }
    const flip = () => {
      swapped = !swapped;
      swap.setAttribute("aria-pressed", swapped);
      draw();
    };
    swap.addEventListener("click", flip);
    opacity.addEventListener("input", draw);
    threshold.addEventListener("input", draw);
    for (const field of [over, under])
      field.addEventListener("change", () => { remember({ [key(field.dataset.layer)]: field.value }); draw(); });
    // The closer viewer begins with what is shown here.
    find("[data-closer]", root)?.addEventListener("click", event => {
      const [link] = event.currentTarget.href.split("#");
      event.currentTarget.href = `${link}#${new URLSearchParams({ stack: source.name, over: over.value, under: under.value })}`;
    });
    // Nothing is decoded before it is looked at.
    new IntersectionObserver((entries, watch) => {
      if (entries.some(entry => entry.isIntersecting)) { watch.disconnect(); draw(); }
    }, { rootMargin: "300px" }).observe(root);
    return { root, flip };
  }

  // Clusters: the rows of the map that is shown, at its threshold.
  for (const place of all("[data-clusters]")) {
    const { keys: columns, tables } = JSON.parse(find("script", place).textContent);
    const root = document.getElementById(place.dataset.clusters);
    const [over, threshold] = ["[data-layer=over]", "[data-threshold]"].map(query => find(query, root));
    const show = () => {
      const found = tables[over.value]?.[threshold.value - 1] ?? { rows: [], more: 0 };
      find("tbody", place).replaceChildren(...found.rows.map(row => {
        const line = document.createElement("tr");
        line.append(...columns.map((column, at) => {
          const cell = document.createElement(at ? "td" : "th");
          if (at) cell.className = "number"; else cell.scope = "row";
          cell.textContent = row[column];
          return cell;
        }));
        return line;
      }));
      find("[data-more]", place).textContent =
        found.more ? `${found.more} smaller ones are left out.` : found.rows.length ? "" : "Nothing changes by so much.";
    };
    over.addEventListener("change", show);
    threshold.addEventListener("input", show);
    show();
  }

  // The cohort: rows come as JSON, worst first, and are drawn a page at a time, so that 10,000 scans stay quick.
  function cohort() {
    const source = data("scans-data");
    if (!source) return;
    const { columns, strips, rows } = source;
    const at = Object.fromEntries(columns.map((column, index) => [column.key, index]));
    const table = document.getElementById("scans-table");
    const count = document.getElementById("scans-count");
    const part = name => document.getElementById(`scans-${name}`);
    const fields = { q: part("search"), status: part("status"), split: part("split"), rated: part("rated") };
    const SIZE = 50;
    const SHAPES = data("status-shapes");
    const SEVERITY = ["fail", "none", "warn", "pass"];
    const SAID = ["exclude", "doubtful", "pass"];
    const collator = new Intl.Collator(undefined, { numeric: true });
    const columnsShown = new Set();
    let said = ratings();
    let order, down, shown, first, size = SIZE;

    // What is searched: all of a row's cells, each on its own line.
    const texts = rows.map(row => row.filter(value => value !== null).join("\n"));
    const places = new Map(rows.map((row, index) => [row, index]));
    const rating = row => said[row[at.scan]]?.rating ?? "";
    const value = (row, key) => key === "rating" ? rating(row) || null : row[at[key]];
    const address = row => `scans/${encodeURIComponent(row[at.scan])}.html`;
    const text = (cell, column) => {
      if (cell === null || cell === "") return "–";
      return column.number && typeof cell === "number" ? String(Number(cell.toPrecision(4))).replace("-", "−") : cell;
    };
    const rank = (key, cell) =>
      key === "qc_status" ? SEVERITY.indexOf(cell) : key === "rating" ? SAID.indexOf(cell) : cell;
    const compare = (a, b) => {
      const [x, y] = [rank(order, value(a, order)), rank(order, value(b, order))];
      if (x === null || y === null || x === -1 || y === -1)
        return (x === null || x === -1) - (y === null || y === -1);
      const side = typeof x === "number" && typeof y === "number" ? x - y : collator.compare(x, y);
      return down ? -side : side;
    };

    // Words are found where they begin; a capital letter must be one ("AD" is not in "adult", nor in "read").
    const matcher = word => new RegExp(
      `(?<![\\p{L}\\p{N}])${word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}`, /\p{Lu}/u.test(word) ? "u" : "iu");

    const readState = () => {
      for (const [key, field] of Object.entries(fields)) field.value = state.get(key) ?? "";
      order = at[state.get("sort")] !== undefined ? state.get("sort") : null;
      down = state.has("down");
      first = Number(state.get("from")) || 0;
      const chosen = state.get("cols")?.split(",") ?? columns.filter(column => column.shown).map(column => column.key);
      columnsShown.clear();
      for (const key of chosen) if (at[key] !== undefined) columnsShown.add(key);
      columnsShown.add("scan");
    };
    const visible = () => columns.filter(column => columnsShown.has(column.key));
    const drawHead = () => {
      table.tHead.rows[0].replaceChildren(...visible().map(column => {
        const head = document.createElement("th");
        const button = document.createElement("button");
        head.scope = "col";
        if (column.number) head.className = "number";
        button.textContent = column.label;
        if (column.key === order) head.setAttribute("aria-sort", down ? "descending" : "ascending");
        button.addEventListener("click", () => {
          const again = order === column.key;
          remember({ sort: column.key, down: again && !down ? "1" : "", from: "" });
          refresh();
          find(`#scans-table thead th:nth-child(${visible().indexOf(column) + 1}) button`).focus();
        });
        head.append(button);
        return head;
      }));
    };
    const drawBody = () => {
      table.tBodies[0].replaceChildren(...shown.slice(first, first + size).map(row => {
        const line = document.createElement("tr");
        for (const column of visible()) {
          const cell = document.createElement(column.key === "scan" ? "th" : "td");
          const content = value(row, column.key);
          if (column.key === "scan") {
            const link = document.createElement("a");
            link.href = address(row);
            link.textContent = content;
            cell.scope = "row";
            cell.append(link);
          } else if (column.key === "qc_status") {
            cell.innerHTML = SHAPES[content] || SHAPES.none;
          } else {
            cell.textContent = text(content, column);
            if (column.number) cell.className = "number";
            if (column.key === "qc_reasons") cell.className = "reasons";
            if (column.key === "stands_out_by") cell.className = "said";
          }
          line.append(cell);
        }
        return line;
      }));
      const last = Math.min(first + size, shown.length);
      const inAll = shown.length < rows.length ? ` (${rows.length} in all)` : "";
      const rated = rows.filter(rating).length;
      count.textContent = (shown.length ? `${first + 1}–${last} of ${shown.length}${inAll}` : "no scan matches")
        + (rated ? `; ${rated} rated` : "");
      part("back").disabled = first === 0;
      part("forth").disabled = last >= shown.length;
      part("worst").disabled = order === null;
      setStops();
    };
    const refresh = () => {
      readState();
      const words = fields.q.value.split(/\s+/).filter(Boolean).map(matcher);
      const [status, split, rated] = ["status", "split", "rated"].map(name => fields[name].value);
      shown = rows.filter((row, index) =>
        (!status || row[at.qc_status] === status) && (!split || row[at.split] === split) &&
        (!rated || (rating(row) || "unrated") === rated) && words.every(word => word.test(texts[index])));
      if (order) shown.sort(compare);
      if (first >= shown.length) first = 0;
      drawHead();
      drawBody();
      for (const box of all("#scans-columns input")) box.checked = columnsShown.has(box.value);
      find("#scans-columns summary").textContent = `Columns (${columnsShown.size} of ${columns.length})`;
      paint();
    };
    for (const [key, field] of Object.entries(fields))
      field.addEventListener(key === "q" ? "input" : "change", () => {
        remember({ [key]: field.value, from: "" });
        refresh();
      });
    part("back").addEventListener("click", () => { remember({ from: String(Math.max(first - SIZE, 0) || "") }); refresh(); });
    part("forth").addEventListener("click", () => { remember({ from: String(first + SIZE) }); refresh(); });
    part("worst").addEventListener("click", () => { remember({ sort: "", down: "", from: "" }); refresh(); });
    for (const box of all("#scans-columns input"))
      box.addEventListener("change", () => {
        box.checked ? columnsShown.add(box.value) : columnsShown.delete(box.value);
        remember({ cols: columns.map(column => column.key).filter(key => columnsShown.has(key)).join(",") });
        refresh();
      });
    part("load").addEventListener("change", async event => {
      const read = fromTable(await event.target.files[0].text());
      if (read) keep("ratings", { ...ratings(), ...read });
      said = ratings();
      refresh();
      if (!read) count.textContent = "this is no ratings.tsv: it has no columns scan and rating";
    });

    // Whoever comes back sees what was rated meanwhile, and the table as it was left.
    addEventListener("pageshow", () => { said = ratings(); refresh(); });
    addEventListener("hashchange", () => {
      const now = new URLSearchParams(location.hash.slice(1));
      for (const key of [...state.keys()]) state.delete(key);
      for (const [key, given] of now) state.set(key, given);
      refresh();
    });
    const leave = () => keep("list", { state: String(state), scans: shown.map(row => row[at.scan]) });
    for (const event of ["click", "auxclick"]) addEventListener(event, ({ target }) => { if (target.closest?.("a")) leave(); });
    addEventListener("pagehide", leave);
    addEventListener("beforeprint", () => { size = rows.length; first = 0; drawBody(); });
    addEventListener("afterprint", () => { size = SIZE; refresh(); });
    const open = row => { leave(); location.href = address(row); };
    keys.j = () => { if (shown.length) open(shown[0]); };
    keys["/"] = () => fields.q.focus();

    // Strips: one a measure, one point a scan, and the limits. Pointing at a scan marks it on every strip.
    const MANY = 2000;
    const MARGIN = 10;
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    document.body.append(tip);
    const drawn = strips.map(strip => {
      const canvas = find(`canvas[data-metric="${CSS.escape(strip.key)}"]`);
      const column = at[strip.key];
      const known = rows.map((row, index) => index).filter(index => rows[index][column] !== null)
        .sort((a, b) => rows[a][column] - rows[b][column]);
      let [low, high] = [rows[known[0]][column], rows[known.at(-1)][column]];
      // A limit just beyond the values is shown, too; one far away stands in the words alone.
      const room = (high - low) / 2 || Math.abs(high) / 10 || 1;
      for (const limit of [...strip.warn, ...strip.fail])
        if (limit >= low - room && limit <= high + room) [low, high] = [Math.min(low, limit), Math.max(high, limit)];
      if (low === high) [low, high] = [low - 1, high + 1];
      const mark = document.createElement("i");
      canvas.after(mark);
      return { canvas, strip, column, known, low, high, mark, chosen: -1 };
    });
    const across = (item, cell, width) => MARGIN + (width - 2 * MARGIN) * (cell - item.low) / (item.high - item.low);
    const jitter = index => ((index * 0.6180339887) % 1) - 0.5;  // golden-ratio steps: even, the same at every visit
    const point = (item, index, width, height) => [
      across(item, rows[index][item.column], width), (height - 12) / 2 + jitter(index) * (height - 24)];
    const shape = (pen, status, x, y, radius) => {
      pen.beginPath();
      if (status === "fail") {
        pen.moveTo(x - radius, y - radius); pen.lineTo(x + radius, y + radius);
        pen.moveTo(x - radius, y + radius); pen.lineTo(x + radius, y - radius);
        pen.lineWidth = 2; pen.stroke();
        return;
      }
      if (status === "warn") {
        pen.moveTo(x, y - radius * 1.2);
        pen.lineTo(x + radius * 1.1, y + radius);
        pen.lineTo(x - radius * 1.1, y + radius);
      } else {
        pen.arc(x, y, radius, 0, 7);
      }
      pen.fill();
    };
    const paintStrip = (item, colour, isShown) => {
      const { canvas } = item;
      const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      for (const [kind, dash] of [["warn", [3, 3]], ["fail", []]])
        for (const limit of item.strip[kind]) {
          const x = across(item, limit, width);
          if (x < 0 || x > width) continue;
          pen.strokeStyle = colour[kind];
          pen.lineWidth = 1;
          pen.setLineDash(dash);
          pen.beginPath(); pen.moveTo(x, 0); pen.lineTo(x, height - 12); pen.stroke();
        }
      pen.setLineDash([]);
      pen.font = "10px system-ui, sans-serif";
      pen.fillStyle = colour.muted;
      pen.textBaseline = "bottom";
      for (const [end, x, side] of [["low", MARGIN - 4, "left"], ["high", width - MARGIN + 4, "right"]]) {
        pen.textAlign = side;
        pen.fillText(String(Number(item[end].toPrecision(3))).replace("-", "−"), x, height);
      }
      let single = item.known;
      if (rows.length > MANY) {
        // So many points would hide one another: bars count them, and only those that warn or fail are drawn.
        const bins = new Float64Array(Math.ceil(width / 3));
        for (const index of item.known)
          if (isShown[index]) bins[Math.floor(across(item, rows[index][item.column], width) / 3)] += 1;
        const most = Math.max(...bins, 1);
        pen.fillStyle = colour.pass;
        pen.globalAlpha = 0.55;
        bins.forEach((bin, place) => {
          const tall = (height - 14) * Math.sqrt(bin / most);
          pen.fillRect(place * 3, height - 12 - tall, 2.5, tall);
        });
        single = item.known.filter(index => rows[index][at.qc_status] !== "pass" && isShown[index]);
      }
      for (const index of single) {
        const status = rows[index][at.qc_status] || "none";
        pen.globalAlpha = isShown[index] ? 0.75 : 0.08;
        pen.fillStyle = pen.strokeStyle = colour[status] || colour.none;
        shape(pen, status, ...point(item, index, width, height), rows.length > MANY ? 2 : 3.2);
      }
    };
    const seen = new Set();  // those in view
    let flags = new Uint8Array(rows.length);
    const colours = () => {
      const style = getComputedStyle(document.documentElement);
      return Object.fromEntries(["pass", "warn", "fail", "none", "muted"].map(
        name => [name, style.getPropertyValue(`--${name}`).trim()]));
    };
    function paint() {
      flags = new Uint8Array(rows.length);
      for (const row of shown) flags[places.get(row)] = 1;
      const colour = colours();
      for (const item of seen) paintStrip(item, colour, flags);
    }
    // A strip is painted when it comes into view: forty of 10,000 scans at once would take seconds.
    const watch = new IntersectionObserver(entries => {
      for (const entry of entries) {
        const item = drawn.find(each => each.canvas === entry.target);
        if (!entry.isIntersecting) {
          seen.delete(item);
          continue;
        }
        seen.add(item);
        paintStrip(item, colours(), flags);
      }
    }, { rootMargin: "200px" });
    const choose = (item, index, x, y) => {
      tip.hidden = index < 0;
      for (const each of drawn) {
        const has = index >= 0 && rows[index][each.column] !== null;
        each.mark.hidden = !has;
        if (has) {
          const [left, top] = point(each, index, each.canvas.clientWidth, each.canvas.clientHeight);
          each.mark.style.transform = `translate(${left}px, ${top}px)`;
        }
      }
      item.chosen = index;
      if (index < 0) return;
      const told = `${rows[index][at.scan]}: ${text(rows[index][item.column], { number: true })} ${item.strip.unit}`.trim();
      tip.textContent = told;
      item.canvas.setAttribute("aria-valuetext", told);
      item.canvas.setAttribute("aria-valuenow", item.known.indexOf(index) + 1);
      tip.style.left = `${Math.min(x + 14, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${y + 14}px`;
    };
    const nearest = (item, event) => {
      const box = item.canvas.getBoundingClientRect();
      let best = -1, least = 144;
      for (const index of item.known) {
        if (!flags[index]) continue;
        const [x, y] = point(item, index, box.width, box.height);
        const distance = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
        if (distance < least) [best, least] = [index, distance];
      }
      return best;
    };
    for (const item of drawn) {
      const { canvas, known } = item;
      item.mark.hidden = true;
      canvas.setAttribute("aria-valuemax", known.length);
      watch.observe(canvas);
      canvas.addEventListener("mousemove", event => choose(item, nearest(item, event), event.clientX, event.clientY));
      canvas.addEventListener("mouseleave", () => choose(item, -1));
      canvas.addEventListener("blur", () => choose(item, -1));
      canvas.addEventListener("click", event => {
        const found = nearest(item, event);
        if (found >= 0) open(rows[found]);
      });
      canvas.addEventListener("keydown", event => {
        const step = { ArrowRight: 1, ArrowLeft: -1, End: known.length, Home: -known.length }[event.key];
        if (event.key === "Enter" && item.chosen >= 0) open(rows[item.chosen]);
        if (!step) return;
        const from = item.chosen < 0 ? (step > 0 ? -1 : known.length) : known.indexOf(item.chosen);
        const to = known[Math.min(Math.max(from + step, 0), known.length - 1)];
        const box = canvas.getBoundingClientRect();
        const [x, y] = point(item, to, box.width, box.height);
        choose(item, to, box.left + x, box.top + y);
        event.preventDefault();
      });
    }
    addEventListener("resize", paint);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    refresh();
  }
})();
