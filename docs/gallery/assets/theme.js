// The color theme: the system's unless the reader chose one. Loaded before the page is drawn, so it never flashes.
(() => {
  "use strict";
  const root = document.documentElement;
  const remember = (value) => {
    // A page opened from a file may have no storage.
    try { localStorage.setItem("maia-theme", value); } catch { /* not remembered */ }
  };
  try {
    const chosen = localStorage.getItem("maia-theme");
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch { /* the system's theme */ }

  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.hidden = false;
    name();
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      name();
    });
  });
})();
