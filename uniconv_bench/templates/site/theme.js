// The theme: the reader's choice, else what the system prefers.
"use strict";

{
  const KEY = "theme";
  const root = document.documentElement;
  const preferred = matchMedia("(prefers-color-scheme: dark)");

  function kept() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage may be forbidden; the choice then holds for this page
    }
  }

  function keep(theme) {
    root.dataset.theme = theme;
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // as above
    }
  }

  const shown = () => root.dataset.theme ?? (preferred.matches ? "dark" : "light");
  const other = () => (shown() === "dark" ? "light" : "dark");

  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = `Switch to ${other()}`; };
    label();
    button.hidden = false;
    button.addEventListener("click", () => { keep(other()); label(); });
    preferred.addEventListener("change", label);
  });
}
