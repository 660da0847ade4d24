// Volumes in full resolution and in 3D. A page that lies on a disk cannot fetch files, but may load scripts: each volume
// is one, under volumes/<stack>/, and is loaded when it is first shown.
window.brainscm = { layers: [], volumes: {} };
(async () => {
  "use strict";

  // niivue's types of colour maps: what lies below the least value fades towards nothing, or is not shown at all.
  const FADES = 1, HIDES = 2;
  const COVERS = 0.4; // share of the largest value from which on a layer covers the scan

  const part = id => document.getElementById(id);
  const [over, under, opacity, threshold, view, cut] = ["over", "under", "opacity", "threshold", "view", "cut"].map(part);
  const state = new URLSearchParams(location.hash.slice(1));
  const stack = state.get("stack") ?? "";
  if (!/^\w[\w.-]*$/.test(stack)) return;
  const say = text => { part("where").textContent = text; };
  const load = file => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `volumes/${stack}/${file}.js`;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${script.src} is not there`));
    document.head.append(script);
  });

  try {
    say("Loading …");
    await load("layers");
    const { layers, volumes } = window.brainscm;
    const names = layers.map(layer => layer.name);
    for (const [field, fallback] of [[over, names[2] ?? names[1]], [under, names[0]]]) {
      field.replaceChildren(...names.map(name => new Option(name)));
      field.value = names.includes(state.get(field.id)) ? state.get(field.id) : fallback;
    }
    const viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1], show3Dcrosshair: true, isColorbar: true, crosshairColor: [1, 0.85, 0.3, 0.8],
      crosshairWidthUnit: "mm", crosshairWidth: 0.2, clipPlaneColor: [0, 0, 0, 0],
      onLocationChange: ({ string }) => say(string),
    });
    await viewer.attachToCanvas(part("volumes"));
    viewer.opts.multiplanarShowRender = niivue.SHOW_RENDER.ALWAYS;

    // The colours of the report's own pictures: differences from their middle up, and from their middle down.
    const { signed, positive } = JSON.parse(part("closer-colours").textContent);
    for (const [name, colours] of [["up", signed.slice(128)], ["down", signed.slice(0, 128).reverse()], ["rising", positive]]) {
      const steps = [...colours.keys()];
      viewer.addColormap(name, {
        R: colours.map(each => each[0]), G: colours.map(each => each[1]), B: colours.map(each => each[2]),
        A: colours.map(() => 255), I: steps.map(at => Math.round(at * 255 / (colours.length - 1))),
      });
    }
    const COLOURS = { grey: ["gray", ""], signed: ["up", "down"], positive: ["rising", ""] };
    const image = async (name, isOver) => {
      const at = names.indexOf(name), layer = layers[at], [colormap, colormapNegative] = COLOURS[layer.kind];
      if (!volumes[at]) await load(at);
      const isGrey = layer.kind === "grey";
      const hidden = Number(threshold.value) / 100;
      const made = await niivue.NVImage.loadFromBase64({
        base64: volumes[at], name: `${at}.nii.gz`, colormap, colormapNegative, colorbarVisible: !isGrey,
        opacity: isOver ? opacity.value / 100 : 1,
        cal_min: isGrey ? 0 : (hidden || COVERS) * layer.limit, cal_max: layer.limit,
      });
      if (!isGrey) made.colormapType = hidden ? HIDES : FADES;
      return made;
    };
    const draw = async () => {
      const shown = under.value === over.value ? [under.value] : [under.value, over.value];
      const images = await Promise.all(shown.map((name, at) => image(name, at > 0)));
      for (const each of [...viewer.volumes]) viewer.removeVolume(each);
      for (const each of images) viewer.addVolume(each);
      const { about } = layers[names.indexOf(over.value)];
      part("about").hidden = !about;
      part("about").textContent = about;
      part("about").classList.toggle("pass", about === "supported");
      arrange();
    };
    const arrange = () => {
      viewer.setSliceType(Number(view.value));
      viewer.setClipPlane(cut.checked ? [0.1, 270, 0] : [2, 0, 0]);
    };
    for (const field of [over, under, threshold, opacity]) field.addEventListener("change", draw);
    for (const field of [view, cut]) field.addEventListener("change", arrange);
    await draw();
    say("");
    document.body.dataset.ready = "yes";
  } catch (error) {
    say(`The volumes cannot be shown: ${error.message}.`);
  }
})();
