// Common to all pages: theme, keyboard shortcuts of the navigation, ages, region for notes.

import { prepareNotes } from "./dialog.js";
import { ago, moment } from "./format.js";
import { call } from "./http.js";
import { onKeys, showKeys } from "./keys.js";
import { hintAtMore } from "./more.js";
import { root } from "./root.js";

const YEAR_SECONDS = 31536000;

function chooseTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  // a cookie, so that the server renders the next page in this theme and it does not flash
  document.cookie = `gradq_theme=${name}; path=${root || "/"}; max-age=${name ? YEAR_SECONDS : 0}; samesite=strict`;
  document.dispatchEvent(new Event("themechange"));
}

/** Update every `<time data-ago>`; called once a second. */
function growAges() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const text = ago(time.dateTime);
    if (time.textContent !== text) time.textContent = text;
    time.title ||= moment(time.dateTime);
  }
}

async function signOut() {
  await call("DELETE", "/session");
  location.href = `${root}/`; // which asks for a token
}

prepareNotes();
const theme = document.getElementById("theme");
theme.addEventListener("change", () => chooseTheme(theme.value));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  document.dispatchEvent(new Event("themechange")),
);
for (const link of document.querySelectorAll("nav [data-key]"))
  onKeys(`g ${link.dataset.key}`, link.textContent, () => link.click());
// on a phone. Not scrollIntoView: from Chromium 150 on, the Tab key continues from what was scrolled to
const current = document.querySelector("nav [aria-current]");
if (current) {
  const nav = current.closest("nav");
  nav.scrollLeft += Math.max(0, current.getBoundingClientRect().right - nav.getBoundingClientRect().right);
}
onKeys("?", "Keyboard shortcuts", showKeys);
document.getElementById("help").addEventListener("click", showKeys);
document.getElementById("sign-out")?.addEventListener("click", signOut);
hintAtMore();
growAges();
setInterval(growAges, 1000);
