"""The embedded observer: describes drawn images and photographs."""
