// Charts by plotly, which is loaded with the first chart: in the colours of the page, with PNG export.

import { literal } from "./literal.js";

let loading = null;

/** Resolves to plotly itself, for charts that are not curves. */
export function plotly() {
  loading ??= load();
  return loading;
}

/**
 * A line chart in `place`. `x`, `y`, `y2`: titles of the axes (`y2`: a second y axis, on the right; `y2FromZero`: its
 * scale starts at 0); `name`: what the chart shows, for screen readers and for the name of the PNG file; `legend`: whether
 * the chart has a legend.
 */
export class Curve {
  constructor(place, { name, x = "", y = "", y2 = null, y2FromZero = false, legend = true }) {
    Object.assign(this, { place, name, y2FromZero, legend, lines: [], log: false, view: 1 });
    this.titles = { x, y, y2 };
    place.setAttribute("role", "figure"); // not img: the content is interactive
    place.setAttribute("aria-label", name);
    this.repaint = () => this.paint();
    document.addEventListener("themechange", this.repaint);
  }

  /**
   * Replace the lines: `{name, x: [], y: [], right, dash, dots, colour, width, faint}`. `right`: on the second axis;
   * `colour`: 1–8, by default in order; `width`: pixels; `faint`: pale, behind the other lines. The zoom is kept.
   */
  show(lines) {
    this.lines = lines;
    return this.paint();
  }

  /** Change the axes: titles, and whether y is logarithmic. The second y axis is shown if `y2` is set. */
  scale({ log = this.log, x = this.titles.x, y = this.titles.y, y2 = this.titles.y2 } = {}) {
    const turned = log !== this.log || x !== this.titles.x || y !== this.titles.y;
    this.log = log;
    this.titles = { x, y, y2 };
    if (turned) this.view += 1; // resets the zoom; plotly keeps it only under a revision that is not 0
    return this.paint();
  }

  async png() {
    const { downloadImage } = await plotly();
    return downloadImage(this.place, { format: "png", scale: 2, filename: this.name.replace(/[^\w.-]+/g, "-") });
  }

  async paint() {
    if (!this.lines.some(({ x }) => x.length)) return; // no empty chart
    const { react } = await plotly();
    const colours = pageColours();
    await react(
      this.place,
      this.lines.map((line, place) => trace(line, place, colours)),
      this.layout(colours),
      CONFIG,
    );
  }

  layout(colours) {
    const axis = {
      gridcolor: colours.line,
      linecolor: colours.line,
      zeroline: false,
      automargin: true,
      exponentformat: "power",
    };
    return {
      uirevision: this.view,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: colours.muted },
      margin: { l: 48, r: this.titles.y2 ? 48 : 12, t: 8, b: 40 },
      hovermode: "x unified",
      // plotly shortens names to 15 letters of their source, which would cut an entity in two
      hoverlabel: { bgcolor: colours.panel, bordercolor: colours.line, font: { color: colours.text }, namelength: -1 },
      showlegend: this.legend && this.lines.length > 1,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      xaxis: { ...axis, title: { text: literal(this.titles.x) } },
      yaxis: { ...axis, title: { text: literal(this.titles.y) }, type: this.log ? "log" : "linear" },
      ...(this.titles.y2 && {
        yaxis2: {
          ...axis,
          title: { text: literal(this.titles.y2) },
          overlaying: "y",
          side: "right",
          showgrid: false,
          tickmode: "auto",
          rangemode: this.y2FromZero ? "tozero" : "normal",
        },
      }),
    };
  }

  /** Release the resources of a chart that is removed from the page. */
  async remove() {
    document.removeEventListener("themechange", this.repaint);
    (await plotly()).purge(this.place);
  }
}

// plotly offers to upload a chart to its maker's cloud unless told not to; without the address it could not be sent either
const CONFIG = {
  displaylogo: false,
  responsive: true,
  showSendToCloud: false,
  plotlyServerURL: "",
  typesetMath: false, // $…$ in a name is text
  modeBarButtonsToRemove: ["select2d", "lasso2d", "toImage"],
};

function trace(
  { name, x, y, right = false, dash = "solid", dots = false, colour = null, width = 1.75, faint = false },
  place,
  colours,
) {
  return {
    name: literal(name),
    x,
    y,
    type: "scatter",
    mode: dots || x.length === 1 ? "lines+markers" : "lines",
    line: { color: colours.curves[((colour ?? place + 1) - 1) & 7], width, dash },
    opacity: faint ? 0.4 : 1,
    marker: { size: 5 },
    ...(right && { yaxis: "y2" }),
  };
}

/** The current colours of gradq.css, resolved: plotly does not accept var(). */
export function pageColours() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const names = ["text", "muted", "line", "panel", "raised", "accent", "good", "warn", "bad"];
  const colours = Object.fromEntries(names.map((name) => [name, read(name)]));
  colours.curves = [1, 2, 3, 4, 5, 6, 7, 8].map((number) => read(`curve-${number}`));
  probe.remove();
  return colours;
}

function load() {
  const { content, dataset } = document.querySelector("meta[name=plotly]");
  // plotly would add the style sheet of its maps, which the policy refuses, unless an element with its id exists
  for (const id of dataset.without.split(" ").filter(Boolean)) {
    const stead = document.createElement("meta");
    stead.id = id;
    document.head.append(stead);
  }
  const script = document.createElement("script");
  script.src = content;
  return new Promise((done, failed) => {
    script.addEventListener("load", () => done(window.Plotly));
    script.addEventListener("error", () =>
      failed(new Error("The charts could not be loaded. Reload the page to try again.")),
    );
    document.head.append(script);
  });
}
